"""`headcount import`."""

from pathlib import Path

import pytest

from headcount import main
from tests.checkpoints.gguf_models import tiny_llama, write_llama


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    return write_llama(tmp_path / "llama.gguf", tiny_llama())


def test_a_gguf_file_becomes_a_folder(gguf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "imported"
    assert main(["import", str(gguf), str(folder), "--dtype", "float32"]) == 0
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in folder.iterdir()}
    assert "headcount serve --model" in " ".join(capsys.readouterr().err.split())


def test_a_folder_that_is_there_is_replaced_only_by_force(
    gguf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path / "imported")
    assert main(["import", str(gguf), folder]) == 0
    assert main(["import", str(gguf), folder]) == 1
    assert "headcount: " in capsys.readouterr().err
    assert main(["import", str(gguf), folder, "--force"]) == 0


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(b"nothing of the kind")
    assert main(["import", str(file), str(tmp_path / "imported")]) == 1
    assert str(file) in capsys.readouterr().err


def test_both_places_are_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "x.gguf"]) == 2
    assert "requires" in capsys.readouterr().err
