"""The small files beside a vocabulary: which tokens are added, which are special, and what is wrong with them."""

from pathlib import Path
from typing import Any

import pytest

from checkpoints.added_tokens import TokenizerConfig, read_tokenizer_config
from checkpoints.errors import CheckpointError, ConfigFileError
from tests.checkpoints.tokenizer_models import write_json


def read(folder: Path, **files: Any) -> TokenizerConfig:
    for name, content in files.items():
        write_json(folder / f"{name}.json", content)
    return read_tokenizer_config(folder)


def placed(config: TokenizerConfig, **ids: int) -> dict[int, tuple[str, bool]]:
    return {token_id: (str(token.content), token.special) for token_id, token in config.place(ids).items()}


def test_no_files(tmp_path: Path) -> None:
    config = read(tmp_path)
    assert (config.values, config.added, config.place({"a": 1})) == ({}, {}, {})
    assert (config.flag("legacy"), config.text("tokenizer_class"), config.role("bos_token")) == (None, "", "")


def test_the_newer_list_makes_the_older_files_void(tmp_path: Path) -> None:
    older: dict[str, Any] = {"added_tokens": {"<b>": 8}, "special_tokens_map": {"eos_token": "<b>"}}
    config = read(tmp_path, tokenizer_config={"added_tokens_decoder": {"7": {"content": "<a>"}}}, **older)
    assert placed(config, a=0) == {7: ("<a>", False)}
    assert config.role("eos_token") == ""


def test_the_older_files(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        tokenizer_config={"eos_token": "</s>", "bos_token": "<s>"},
        added_tokens={"<b>": 8, "<plain>": 9},
        special_tokens_map={
            "eos_token": {"content": "<b>", "lstrip": True},
            "additional_special_tokens": ["x", "gone"],
        },
    )
    assert (config.role("eos_token"), config.role("bos_token")) == ("<b>", "<s>")
    assert placed(config, x=3) == {3: ("x", True), 8: ("<b>", True), 9: ("<plain>", False)}
    assert config.added[9].normalized
    assert not config.added[8].normalized


def test_what_makes_a_token_special(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        tokenizer_config={
            "added_tokens_decoder": {
                "1": {"content": "<role>"},
                "2": {"content": "<flag>", "special": True},
                "3": {"content": "<plain>", "rstrip": True},
            },
            "pad_token": {"content": "<role>"},
            "image_token": "<image>",
            "add_bos_token": True,
            "extra_special_tokens": {"video": "<video>"},
            "additional_special_tokens": [{"content": "<listed>", "lstrip": True}],
            "sep_token": None,
            "cls_token": "",
        },
    )
    ids = {"<image>": 4, "<video>": 5, "<listed>": 6, "<other>": 7}
    found = config.place(ids)
    assert {token_id for token_id, token in found.items() if token.special} == {1, 2, 4, 5, 6}
    assert sorted(found) == [1, 2, 3, 4, 5, 6]
    assert found[3].rstrip
    assert found[6].lstrip
    assert list(found) == sorted(found)


def test_defaults_do_not_replace_what_is_said(tmp_path: Path) -> None:
    config = read(tmp_path, tokenizer_config={"bos_token": None, "eos_token": "</s>"})
    config = config.with_defaults({"bos_token": "<s>", "eos_token": "<e>", "unk_token": "<unk>"})
    assert [config.role(name) for name in ("bos_token", "eos_token", "unk_token")] == ["", "</s>", "<unk>"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tokenizer_config": []}, r"tokenizer_config\.json is malformed: expected a JSON object, got list"),
        ({"tokenizer_config": {"added_tokens_decoder": []}}, "expected added_tokens_decoder: an object of ids, got "),
        ({"tokenizer_config": {"added_tokens_decoder": {"x": {}}}}, "a token id in added_tokens_decoder, got 'x'"),
        ({"tokenizer_config": {"added_tokens_decoder": {"-1": {}}}}, "a token id in added_tokens_decoder, got '-1'"),
        ({"tokenizer_config": {"added_tokens_decoder": {"²": {}}}}, "a token id in added_tokens_decoder"),
        ({"tokenizer_config": {"added_tokens_decoder": {"9" * 5000: {}}}}, "a token id in added_tokens_decoder"),
        ({"tokenizer_config": {"added_tokens_decoder": {"1": "a"}}}, r"added_tokens_decoder\[1\]: a token's spelling"),
        ({"tokenizer_config": {"added_tokens_decoder": {"1": {"content": ""}}}}, "a token's spelling"),
        ({"tokenizer_config": {"added_tokens_decoder": {"1": {"content": "a", "lstrip": 1}}}}, "true or false"),
        ({"tokenizer_config": {"added_tokens_decoder": {"1": {"content": "a", "special": "no"}}}}, "true or false"),
        ({"tokenizer_config": {"bos_token": 1}}, "expected bos_token: a token's spelling, or an object"),
        ({"tokenizer_config": {"additional_special_tokens": "x"}}, "additional_special_tokens: a list of tokens"),
        ({"tokenizer_config": {"additional_special_tokens": [1]}}, r"additional_special_tokens\[0\]: a token's"),
        ({"special_tokens_map": {"eos_token": ["x"]}}, "expected eos_token: a token's spelling"),
        ({"added_tokens": {"a": "1"}}, r"added_tokens\.json is malformed: expected an id of its own for 'a', got '1'"),
        ({"added_tokens": {"a": True}}, "an id of its own for 'a', got True"),
        ({"added_tokens": {"a": -1}}, "an id of its own for 'a', got -1"),
        ({"added_tokens": {"a": 1, "b": 1}}, "an id of its own for 'b', got 1"),
        ({"added_tokens": {"": 1}}, "a token's spelling"),
    ],
)
def test_errors_say_what_is_wrong(tmp_path: Path, files: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigFileError, match=message):
        read(tmp_path, **files).place({})


def test_one_token_twice(tmp_path: Path) -> None:
    decoder = {"1": {"content": "a"}, "2": {"content": "a"}}
    with pytest.raises(ConfigFileError, match="one id for each added token, got '2 ids of 1 tokens'"):
        read(tmp_path, tokenizer_config={"added_tokens_decoder": decoder}).place({})


def test_settings_of_the_wrong_type(tmp_path: Path) -> None:
    config = read(tmp_path, tokenizer_config={"legacy": 1, "tokenizer_class": ["x"]})
    with pytest.raises(CheckpointError, match="expected legacy: true or false, got 1"):
        config.flag("legacy")
    with pytest.raises(CheckpointError, match="expected tokenizer_class: text, got "):
        config.text("tokenizer_class")
