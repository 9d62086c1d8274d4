"""Which of a folder's files make its tokenizer, and what is said where none do."""

import warnings
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from checkpoints.errors import CheckpointError, FolderUnreadableError, TokenizerFileError
from checkpoints.tokenizer_files import MAX_FILE_BYTES
from checkpoints.tokenizer_folder import load_tokenizer
from tests.checkpoints.gguf_models import unprivileged
from tests.checkpoints.tokenizer_models import write_byte_level, write_json, write_sentencepiece

GPT2 = {"tokenizer_class": "GPT2Tokenizer"}


def whole() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({"hello": 0, "<unk>": 1, "<end>": 2}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_tokens([AddedToken("<tool>", rstrip=True)])
    return tokenizer


def tokens(folder: Path, text: str = "hello") -> list[str]:
    return list(load_tokenizer(folder).tokenizer.encode(text, add_special_tokens=False).tokens)


def test_which_file_wins(tmp_path: Path) -> None:
    write_sentencepiece(tmp_path, "llama")
    assert tokens(tmp_path)[0] == "▁"
    write_byte_level(tmp_path, GPT2)
    assert tokens(tmp_path)[0].startswith("h")
    whole().save(str(tmp_path / "tokenizer.json"))
    assert tokens(tmp_path) == ["hello"]


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_half_a_pair_is_none(tmp_path: Path, name: str) -> None:
    write_sentencepiece(tmp_path, "llama")
    (tmp_path / name).write_text("{}")
    assert tokens(tmp_path)[0] == "▁"


def test_nothing_there(tmp_path: Path) -> None:
    expected = r"expected tokenizer\.json, or vocab\.json and merges\.txt, or tokenizer\.model"
    with pytest.raises(TokenizerFileError, match=rf"has no tokenizer: {expected}, got none of them\. Add the files"):
        load_tokenizer(tmp_path)
    (tmp_path / "vocab.json").write_text("{}")
    (tmp_path / "spiece.model").write_text("")
    with pytest.raises(TokenizerFileError, match=r"got spiece\.model, vocab\.json\."):
        load_tokenizer(tmp_path)
    with pytest.raises(TokenizerFileError, match="has no tokenizer"):
        load_tokenizer(tmp_path / "absent")


def oracle(folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)


def test_special_tokens_that_a_whole_file_has_as_plain_ones(tmp_path: Path) -> None:
    whole().save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(tmp_path).tokenizer.decode([0, 2, 3]) == "hello <end> <tool>"
    config = {"eos_token": "<end>", "additional_special_tokens": ["<tool>"], "pad_token": "<nowhere>"}
    write_json(tmp_path / "special_tokens_map.json", config)
    tokenizer, values = load_tokenizer(tmp_path)
    found = tokenizer.encode("hello<end> hello<tool>  hello").ids
    assert found == [0, 2, 0, 3, 0]
    assert found == oracle(tmp_path)("hello<end> hello<tool>  hello")["input_ids"]
    assert tokenizer.decode(found, skip_special_tokens=True) == "hello hello hello"
    assert tokenizer.decode(found, skip_special_tokens=False) == "hello <end> hello <tool> hello"
    assert tokenizer.get_vocab_size() == 4
    assert values == config


@pytest.mark.parametrize("name", ["tokenizer.json", "merges.txt", "vocab.json", "tokenizer.model", "added_tokens.json"])
def test_a_file_that_is_too_large(tmp_path: Path, name: str) -> None:
    if name != "tokenizer.model":
        write_byte_level(tmp_path, GPT2)
    with (tmp_path / name).open("wb") as stream:
        stream.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(TokenizerFileError, match=rf"{name} is too large: expected at most {MAX_FILE_BYTES} bytes"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "merges.txt", "vocab.json", "tokenizer_config.json", "tokenizer.model"]
)
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    if name != "tokenizer.model":
        write_byte_level(tmp_path, GPT2)
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).mkdir()
    with pytest.raises(CheckpointError, match=rf"{name}.* \(?Is a directory"):
        load_tokenizer(tmp_path)


def test_a_folder_that_may_not_be_entered(tmp_path: Path) -> None:
    write_byte_level(tmp_path, GPT2).chmod(0)
    try:
        with unprivileged(), pytest.raises(FolderUnreadableError, match=r"cannot read .*tokenizer_config\.json"):
            load_tokenizer(tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_a_file_in_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TokenizerFileError, match="has no tokenizer"):
        load_tokenizer(tmp_path / "file")


def test_limits_and_padding_are_lifted(tmp_path: Path) -> None:
    tokenizer = whole()
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert tokens(tmp_path, "hello " * 5) == ["hello"] * 5
