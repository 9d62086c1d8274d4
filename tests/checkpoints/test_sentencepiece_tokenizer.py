"""tokenizer.model gives the ids of the sentencepiece library, with added tokens around them."""

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer

from checkpoints.errors import ConfigFileError, TokenizerFileError
from checkpoints.tokenizer_folder import load_tokenizer
from tests.checkpoints.tokenizer_models import (
    SENTENCEPIECE_OPTIONS,
    TEXTS,
    WORDS,
    sentencepiece_model,
    write_sentencepiece,
)

CONTROL = ("<s>", "</s>", "<unk>", "<pad>", "<bos>", "<eos>", "<ctl>")


class Loaded:
    """Every model, loaded once. No dict: a test that fails prints it, and these tokenizers cannot be printed."""

    def __init__(self, folder: Path) -> None:
        self._tokenizers = {}
        for name in SENTENCEPIECE_OPTIONS:
            (folder / name).mkdir()
            self._tokenizers[name] = load_tokenizer(write_sentencepiece(folder / name, name)).tokenizer

    def __getitem__(self, name: str) -> Tokenizer:
        return self._tokenizers[name]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return Loaded(tmp_path_factory.mktemp("models"))


def library(name: str) -> SentencePieceProcessor:
    return SentencePieceProcessor(model_proto=sentencepiece_model(name))


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    found: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return found


@pytest.mark.parametrize("name", SENTENCEPIECE_OPTIONS)
def test_ids_are_those_of_the_library(loaded: Loaded, name: str) -> None:
    draw = random.Random(1)
    mixed = ["".join(draw.choices([*WORDS, " ", "  ", "\n", "<sep>", "☂"], k=12)) for _ in range(200)]
    for text in [text for text in TEXTS if "<unk>" not in text] + mixed:
        assert ids(loaded[name], text) == library(name).encode(text), repr(text)


@pytest.mark.parametrize("name", SENTENCEPIECE_OPTIONS)
@given(text=st.text(max_size=40).filter(lambda text: "<" not in text))
@settings(max_examples=80)
def test_any_text_has_the_ids_of_the_library(loaded: Loaded, name: str, text: str) -> None:
    assert ids(loaded[name], text) == library(name).encode(text)


def test_many_texts_at_once(loaded: Loaded) -> None:
    texts = TEXTS[:12] * 20
    found = loaded["llama"].encode_batch_fast(texts, add_special_tokens=False)
    assert [encoding.ids for encoding in found] == [library("llama").encode(text) for text in texts]


@pytest.mark.parametrize("name", ["llama", "gemma", "bpe-bytes", "unigram-llama"])
def test_text_comes_back(loaded: Loaded, name: str) -> None:
    for text in TEXTS:
        expected = library(name).decode(library(name).encode(text))
        if name in ("llama", "unigram-llama", "gemma"):
            assert expected == text.replace("▁", " ")
        if "<unk>" not in text:
            assert loaded[name].decode(ids(loaded[name], text)) == expected


@pytest.mark.parametrize("name", SENTENCEPIECE_OPTIONS)
def test_control_tokens_are_found_in_text_and_are_special(loaded: Loaded, name: str) -> None:
    known = [token for token in CONTROL if library(name).piece_to_id(token) != library(name).unk_id()]
    for token in [*known, "<unk>"]:
        token_id = library(name).piece_to_id(token)
        assert ids(loaded[name], f"fox{token}") == [*library(name).encode("fox"), token_id]
        assert loaded[name].decode([token_id], skip_special_tokens=True) == ""
        assert loaded[name].decode([token_id], skip_special_tokens=False) == token


@pytest.mark.parametrize(
    ("config", "before", "behind"),
    [
        ({}, [1], []),
        ({"add_bos_token": True}, [1], []),
        ({"add_bos_token": False}, [], []),
        ({"add_bos_token": False, "add_eos_token": True}, [], [2]),
        ({"add_eos_token": True, "eos_token": {"content": "</s>"}}, [1], [2]),
        ({"bos_token": None}, [], []),
        ({"bos_token": "<nowhere>"}, [], []),
        ({"bos_token": "</s>"}, [2], []),
    ],
)
def test_what_frames_a_text(tmp_path: Path, config: dict[str, Any], before: list[int], behind: list[int]) -> None:
    tokenizer = load_tokenizer(write_sentencepiece(tmp_path, "llama", config)).tokenizer
    inner = library("llama").encode("the fox")
    assert tokenizer.encode("the fox").ids == [*before, *inner, *behind]
    assert tokenizer.encode("the fox", add_special_tokens=False).ids == inner


def pieces(folder: Path, text: str, **config: Any) -> list[str]:
    tokenizer = load_tokenizer(write_sentencepiece(folder, "llama", config)).tokenizer
    return list(tokenizer.encode(text, add_special_tokens=False).tokens)


def test_which_parts_begin_with_a_blank(tmp_path: Path) -> None:
    text = "fox</s>fox"
    with_blank = library("llama").encode("fox", out_type=str)
    assert with_blank[0].startswith("▁")
    bare = pieces(tmp_path, "fox", add_prefix_space=False)
    assert bare[0].startswith("f")
    assert pieces(tmp_path, text) == [*with_blank, "</s>", *bare]
    assert pieces(tmp_path, text, legacy=False) == [*with_blank, "</s>", *bare]
    assert pieces(tmp_path, text, legacy=True) == [*with_blank, "</s>", *with_blank]
    assert pieces(tmp_path, text, legacy=True, add_prefix_space=False) == [*bare, "</s>", *bare]
    assert pieces(tmp_path, "</s>fox") == ["</s>", *bare]


def test_the_config_can_turn_the_blank_on(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_sentencepiece(tmp_path, "gemma", {"add_prefix_space": True})).tokenizer
    found = tokenizer.encode("fox", add_special_tokens=False)
    assert found.tokens[0].startswith("▁")
    assert tokenizer.decode(found.ids) == "fox"


def test_added_tokens_take_the_ids_that_the_config_gives_them(tmp_path: Path) -> None:
    num_pieces = len(library("llama"))
    added = {
        "5": {"content": "[RENAMED]", "special": True},
        str(num_pieces): {"content": "[INST]", "special": False, "normalized": False},
        str(num_pieces + 7): {"content": "<|turn|>", "special": True, "rstrip": True},
    }
    tokenizer, config = load_tokenizer(
        write_sentencepiece(tmp_path, "llama", {"added_tokens_decoder": added, "add_bos_token": False})
    )
    fox = library("llama").encode("fox")
    found = tokenizer.encode("fox[INST]<|turn|>  [RENAMED]").ids
    assert found == [*fox, num_pieces, num_pieces + 7, 5]
    assert tokenizer.decode(found, skip_special_tokens=True) == "fox[INST]"
    assert tokenizer.decode(found, skip_special_tokens=False) == "fox[INST]<|turn|>[RENAMED]"
    # The byte whose name was taken is still found, by its id.
    assert 5 in tokenizer.encode(b"\x02".decode()).ids
    assert (config["bos_token"], config["eos_token"], config["unk_token"]) == ("<s>", "</s>", "<unk>")


def test_an_added_token_with_two_ids(tmp_path: Path) -> None:
    config = {"added_tokens_decoder": {"9": {"content": "</s>"}}}
    with pytest.raises(ConfigFileError, match=r"expected id 2 for the added token '</s>', got 9"):
        load_tokenizer(write_sentencepiece(tmp_path, "llama", config))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no SentencePiece model: got an empty file"),
        (b"\x00" * 64, "is no SentencePiece model"),
        (b"\x08\x01", "is no SentencePiece model"),
        (sentencepiece_model("bpe")[:-50], "is no SentencePiece model"),
        (b"IQ== 0\nIg== 1\n", "got a tiktoken vocabulary, which shares only the name. Save it as tokenizer.json"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Download the model again"),
    ],
)
def test_a_file_that_is_no_model(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(TokenizerFileError, match=message):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["legacy", "add_prefix_space", "add_bos_token", "add_eos_token"])
def test_a_flag_that_is_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigFileError, match=rf"tokenizer_config\.json is malformed: expected {name}: true or false"):
        load_tokenizer(write_sentencepiece(tmp_path, "llama", {name: "yes"}))
