"""`headcount bench --offline`, on a model whose bytes can be counted by hand."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from checkpoints.headers import read_config
from engine.models.registry import load_spec
from headcount import main
from server.cli.bench_ceiling import measure_ceilings
from tests.engine.tiny_models import build_model, save_model

STEPS = 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny model, and a tokenizer that the engine loads and nobody asks."""
    folder = save_model(build_model("llama"), tmp_path / "tiny")
    Tokenizer(WordLevel({"a": 0}, "a")).save(str(folder / "tokenizer.json"))
    return folder


def test_a_sweep_counts_the_bytes_that_steps_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("server.cli.bench_offline.measure_ceilings", lambda: measure_ceilings(1 << 16, 8))
    file = tmp_path / "sweep.json"
    sweep = ["--batch-sizes", "1,3", "--contexts", "5,20", "--decode-steps", str(STEPS), "--rounds", "1"]
    assert main(["bench", "--offline", str(folder), *sweep, "--dtype", "float32", "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    spec = load_spec(read_config(folder))
    kv_bytes_per_token = spec.kv_geometry(4, 16).bytes_per_token
    assert [(point["batch_size"], point["context_tokens"]) for point in report["points"]] == [
        (1, 5),
        (3, 5),
        (1, 20),
        (3, 20),
    ]
    for point in report["points"]:
        batch_size = point["batch_size"]
        # The first decode step sees the prompt and the token that ended the prefill, the next one token more.
        seen = sum(point["context_tokens"] + 1 + step for step in range(STEPS)) / STEPS
        assert point["kv_bytes_per_step"] == int(batch_size * seen * kv_bytes_per_token)
        assert point["weight_bytes_per_step"] == 4 * spec.num_read_parameters(batch_size)
        assert point["decode_tokens_per_s"] == pytest.approx(batch_size / point["step_s"]["p50"])
        expected = point["read_bytes_per_s"] / report["ceilings"]["read_bytes_per_s"]
        assert point["bandwidth_utilization"] == pytest.approx(expected)
    assert "of the" in capsys.readouterr().out


def test_a_context_beyond_the_model_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--offline", str(folder), "--contexts", "1000000"]) == 1
    assert "max_model_len must be at most" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--offline", "demo", "--concurrency", "2"], "--offline takes no load"),
        (["--batch-sizes", "2"], "name it with --offline"),
    ],
)
def test_options_that_would_have_no_effect_are_refused(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *flags]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--batch-sizes", "--contexts"])
def test_sizes_below_one_are_refused(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", f"{flag}=0"]) == 2
    assert f"{flag} must hold numbers of at least 1" in capsys.readouterr().err
