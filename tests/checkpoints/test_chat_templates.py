"""Chat templates are found where transformers finds them."""

import warnings
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models

from checkpoints.chat_templates import read_chat_templates
from checkpoints.errors import CheckpointError, ConfigFileError, TokenizerFileError
from checkpoints.tokenizer_files import MAX_FILE_BYTES
from tests.checkpoints.tokenizer_models import write_json

NAMED = [{"name": "default", "template": "config"}, {"name": "tool_use", "template": "config tools"}]

SOURCES: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "none": ({}, {}),
    "config": ({"chat_template": "config"}, {}),
    "config-named": ({"chat_template": NAMED}, {}),
    "jinja": ({}, {"chat_template.jinja": "jinja"}),
    "jinja-and-config": ({"chat_template": "config"}, {"chat_template.jinja": "jinja"}),
    "jinja-and-config-named": ({"chat_template": NAMED}, {"chat_template.jinja": "jinja"}),
    "folder": ({}, {"additional_chat_templates/default.jinja": "folder"}),
    "folder-and-config": ({"chat_template": "config"}, {"additional_chat_templates/default.jinja": "folder"}),
    "jinja-and-folder": (
        {"chat_template": "config"},
        {"chat_template.jinja": "jinja", "additional_chat_templates/tool_use.jinja": "tools"},
    ),
    "two-defaults": ({}, {"chat_template.jinja": "jinja", "additional_chat_templates/default.jinja": "folder"}),
    "other-files": ({}, {"chat_template.jinja": "jinja é\n\n", "additional_chat_templates/readme.txt": "no"}),
}


def write(folder: Path, config: dict[str, Any], files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content.encode())
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **config})
    return folder


def oracle(folder: Path) -> Any:
    Tokenizer(models.WordLevel({"x": 0}, unk_token="x")).save(str(folder / "tokenizer.json"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)


@pytest.mark.parametrize("name", SOURCES)
def test_the_default_is_the_one_of_transformers(tmp_path: Path, name: str) -> None:
    config, files = SOURCES[name]
    found = read_chat_templates(write(tmp_path, config, files), config).get("default")
    tokenizer = oracle(tmp_path)
    assert found == (tokenizer.get_chat_template() if tokenizer.chat_template else None)


def test_names(tmp_path: Path) -> None:
    files = {"additional_chat_templates/tool_use.jinja": "tools", "additional_chat_templates/rag.jinja": "rag"}
    found = read_chat_templates(write(tmp_path, {}, files), {"chat_template": NAMED})
    assert found == {"default": "config", "tool_use": "tools", "rag": "rag"}


def test_the_file_of_processors_is_the_last_resort(tmp_path: Path) -> None:
    write_json(tmp_path / "chat_template.json", {"chat_template": "processor"})
    assert read_chat_templates(tmp_path, {}) == {"default": "processor"}
    assert read_chat_templates(tmp_path, {"chat_template": "config"}) == {"default": "config"}


@pytest.mark.parametrize("source", [1, {"default": "x"}, ["x"], [{"name": "default"}], [{"name": 1, "template": "x"}]])
def test_a_setting_that_is_none(tmp_path: Path, source: Any) -> None:
    message = (
        r"chat_template in .*tokenizer_config\.json is malformed: expected a text, or a list of objects with a name"
    )
    with pytest.raises(ConfigFileError, match=message):
        read_chat_templates(tmp_path, {"chat_template": source})
    write_json(tmp_path / "chat_template.json", {"chat_template": source})
    with pytest.raises(ConfigFileError, match=r"chat_template\.json is malformed"):
        read_chat_templates(tmp_path, {})


@pytest.mark.parametrize("name", ["chat_template.jinja", "chat_template.json", "additional_chat_templates/x.jinja"])
def test_files_that_are_not_texts(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match=rf"{path.name} is malformed"):
        read_chat_templates(tmp_path, {})
    with path.open("wb") as stream:
        stream.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(TokenizerFileError, match=rf"{path.name} is too large"):
        read_chat_templates(tmp_path, {})
    path.unlink()
    path.mkdir()
    with pytest.raises(CheckpointError, match=rf"{path.name} \(Is a directory\)"):
        read_chat_templates(tmp_path, {})
