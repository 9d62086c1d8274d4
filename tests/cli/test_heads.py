"""`headcount heads`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from headcount import main
from tests.engine.tiny_models import build_model, save_model
from tests.heads.tiny import TEXT, add_tokenizer


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return add_tokenizer(save_model(build_model("llama"), tmp_path / "source"))


def test_convert_says_plainly_that_quality_falls(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["heads", "convert", str(llama), str(tmp_path / "mqa"), "--kv-heads", "1", "--eval", TEXT]
    assert main(command) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "1 key/value heads in every layer, from 2" in said
    assert "perplexity" in said
    assert "quality falls without further training" in said
    assert main(command) == 1
    assert "exists already" in capsys.readouterr().err


def test_convert_says_that_repeating_changes_nothing(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["heads", "convert", str(llama), str(tmp_path / "mha"), "--kv-heads", "6", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["method"], said["num_kv_heads"], said["is_exact"], said["before"]) == ("repeat", 6, True, None)


def test_inspect_prints_writes_and_draws(llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, folder = tmp_path / "heads.json", tmp_path / "plots"
    command = ["heads", "inspect", str(llama), "--text", TEXT, "--window", "16"]
    assert main([*command, "--json", str(file), "--plots", str(folder)]) == 0
    assert "18 query heads over 60 tokens" in capsys.readouterr().out
    assert len(json.loads(file.read_text())["heads"]) == 18
    assert {path.name for path in folder.iterdir()} == {"heads.png", "distances.png"}


def test_ablate_and_prune_print_what_they_found(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["heads", "ablate", str(llama), "--text", TEXT, "--window", "16", "--heads", "2", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["most_important"]) == 2
    out = str(tmp_path / "out")
    assert main(["heads", "prune", str(llama), out, "--heads", "0.0,0.1,0.2", "--text", TEXT]) == 0
    said = capsys.readouterr().out
    assert "3 of 18 query heads are gone" in said
    assert "decode, tokens a second" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convert", "SRC", "DST", "--kv-heads", "4"], "possible: 1, 2, 6"),
        (["inspect", "SRC", "--text", "w1 w2"], "at least 8 tokens, got 2"),
        (["prune", "SRC", "DST", "--heads", "0-1"], "--heads must be LAYER.HEAD"),
        (["prune", "SRC", "DST"], "either which share"),
    ],
)
def test_bad_input_is_one_clear_line(
    llama: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"SRC": str(llama), "DST": str(tmp_path / "out")}
    assert main(["heads", *(places.get(argument, argument) for argument in arguments)]) == 1
    [line] = capsys.readouterr().err.splitlines()[-1:]
    assert message in line
    assert not (tmp_path / "out").exists()


def test_the_commands_are_explained_without_a_tensor_library() -> None:
    code = "import sys, headcount; headcount.main(['heads', '--help']); print('LOADED', 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("LOADED False\n")
    assert all(command in done.stdout for command in ("convert", "inspect", "ablate", "prune"))
