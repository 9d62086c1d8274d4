"""Whatever kind of tokenizer, tokens become text one by one as they do all at once, and never half a character."""

import functools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor

from engine.request import FinishReason, SamplingParams, TokenDelta
from server.text_assembler import TextAssembler
from server.tokenizer import Tokenizer
from tests.checkpoints.tokenizer_models import (
    END,
    TEXTS,
    byte_level_model,
    num_byte_level_tokens,
    sentencepiece_model,
    write_byte_level,
    write_sentencepiece,
)
from tests.server import tiny_tokenizers as tiny

PLAIN, SPECIAL = "«é▁»", "<|turn|>"
SENTENCEPIECE = ["llama", "gemma", "bpe-bytes", "unigram-bytes", "unigram-llama", "bpe", "unigram", "suffix"]
WHOLE_FILES = ["byte-level.json", "sentencepiece.json", "metaspace.json", "word-pieces.json"]
KINDS = ["byte-level", *SENTENCEPIECE, *WHOLE_FILES]
LOSSLESS = ["byte-level", "llama", "gemma", "unigram-llama"]
"""Kinds that give every text back as it was."""

BEGINNINGS = {
    character.encode(errors="surrogatepass")[:length]
    for character in map(chr, range(0x80, 0x110000, 64))
    for length in range(1, len(character.encode(errors="surrogatepass")))
}
"""All bytes that a character may begin with and does not end with: the last byte holds the lowest six bits.

Those of surrogates are among them: no text has any, but Python's decoder sees it by their third byte only.
"""


class Loaded:
    """One tokenizer of every kind, each with a plain and a special added token."""

    def __init__(self, folder: Path) -> None:
        self._tokenizers = {}
        for kind in KINDS:
            (folder / kind).mkdir()
            self._tokenizers[kind] = Tokenizer(_write(folder / kind, kind))

    def __getitem__(self, kind: str) -> Tokenizer:
        return self._tokenizers[kind]


def _write(folder: Path, kind: str) -> Path:
    if kind in WHOLE_FILES:
        return tiny.save(getattr(tiny, kind.removesuffix(".json").replace("-", "_"))(), folder)
    first = first_added(kind)
    added = {first: {"content": PLAIN}, first + 2: {"content": SPECIAL, "special": True}}
    config: dict[str, Any] = {"added_tokens_decoder": {str(token_id): token for token_id, token in added.items()}}
    if kind == "byte-level":
        return write_byte_level(folder, config | {"tokenizer_class": "GPT2Tokenizer"})
    return write_sentencepiece(folder, kind, config)


def first_added(kind: str) -> int:
    """The first id behind a vocabulary."""
    if kind == "byte-level":
        return num_byte_level_tokens()
    return len(SentencePieceProcessor(model_proto=sentencepiece_model(kind)))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return Loaded(tmp_path_factory.mktemp("tokenizers"))


def pieces(tokenizer: Tokenizer, token_ids: list[int], *, skip: bool) -> list[str]:
    detokenizer = tokenizer.detokenizer(skip_special_tokens=skip)
    return [*map(detokenizer.feed, token_ids), detokenizer.flush()]


def any_tokens(tokenizer: Tokenizer) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, tokenizer.vocab_size), max_size=50)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=100)
def test_any_tokens_give_the_same_text_one_by_one(loaded: Loaded, kind: str, data: st.DataObject) -> None:
    token_ids, skip = data.draw(any_tokens(loaded[kind])), data.draw(st.booleans())
    found = pieces(loaded[kind], token_ids, skip=skip)
    "".join(found).encode()
    assert all(piece == piece.encode().decode() for piece in found)
    assert "".join(found) == loaded[kind].decode(token_ids, skip_special_tokens=skip)


@pytest.mark.parametrize("kind", ["byte-level", *SENTENCEPIECE])
@given(data=st.data())
@settings(max_examples=100)
def test_all_whole_characters_are_out_and_nothing_else(loaded: Loaded, kind: str, data: st.DataObject) -> None:
    token_ids = data.draw(any_tokens(loaded[kind]))
    found = pieces(loaded[kind], token_ids, skip=False)
    for num_tokens in range(len(token_ids) + 1):
        written = b"".join(spelled(kind).get(token_id, b"") for token_id in token_ids[:num_tokens])
        incomplete = next((n for n in (3, 2, 1) if len(written) >= n and written[-n:] in BEGINNINGS), 0)
        text = written[: len(written) - incomplete].decode(errors="replace")
        if drops_first_blank(kind):
            text = text.removeprefix(" ")
        assert "".join(found[:num_tokens]) == text


@functools.cache
def spelled(kind: str) -> dict[int, bytes]:
    """The bytes of every token, from the vocabulary as its own library or file has it."""
    first = first_added(kind)
    if kind == "byte-level":
        own = {token_id: letters(token) for token, token_id in byte_level_model()["vocab"].items()}
    else:
        model = SentencePieceProcessor(model_proto=sentencepiece_model(kind))
        own = {token_id: piece_bytes(model, token_id) for token_id in range(first)}
    return own | {first: PLAIN.encode(), first + 2: SPECIAL.encode()}


def piece_bytes(model: SentencePieceProcessor, token_id: int) -> bytes:
    piece = str(model.id_to_piece(token_id))
    if model.is_byte(token_id):
        return bytes.fromhex(piece[3:5])
    return (piece if model.is_control(token_id) else piece.replace("▁", " ")).encode()


def letters(token: str) -> bytes:
    if token == END:
        return token.encode()
    shifted = [byte for byte in range(256) if not (0x21 <= byte < 0x7F or (0xA1 <= byte < 0x100 and byte != 0xAD))]
    return bytes(ord(char) if ord(char) < 0x100 else shifted[ord(char) - 0x100] for char in token)


def drops_first_blank(kind: str) -> bool:
    return kind not in ("byte-level", "gemma", "suffix")


@pytest.mark.parametrize("kind", LOSSLESS)
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="▁\ufffd<«"), max_size=40))
@settings(max_examples=100)
def test_a_text_comes_back_in_whole_characters(loaded: Loaded, kind: str, text: str) -> None:
    found = pieces(loaded[kind], loaded[kind].encode(text, add_special_tokens=False), skip=True)
    assert "".join(found) == text
    assert not any("\ufffd" in piece for piece in found)


@pytest.mark.parametrize("kind", ["byte-level", *SENTENCEPIECE])
def test_added_tokens_are_whole_wherever_they_stand(loaded: Loaded, kind: str) -> None:
    [plain] = loaded[kind].encode(PLAIN, add_special_tokens=False)[-1:]
    [special] = loaded[kind].encode(SPECIAL, add_special_tokens=False)[-1:]
    assert special == plain + 2
    assert pieces(loaded[kind], [plain, special, plain], skip=True) == [PLAIN, "", PLAIN, ""]
    assert pieces(loaded[kind], [plain, special, plain], skip=False) == [PLAIN, SPECIAL, PLAIN, ""]
    assert pieces(loaded[kind], [plain + 1], skip=False) == ["", ""], "an id between them that is no token"


@pytest.mark.parametrize("kind", LOSSLESS)
def test_whichever_token_ends_an_output_is_not_in_its_text(loaded: Loaded, kind: str) -> None:
    tokenizer = loaded[kind]
    [plain] = tokenizer.encode(PLAIN, add_special_tokens=False)[-1:]
    text = TEXTS[10]
    output = tokenizer.encode(text, add_special_tokens=False)
    # End tokens are whatever generation_config.json lists: special, plain, or one that is part of a character.
    for end in (plain, plain + 2, next(i for i in range(tokenizer.vocab_size) if tokenizer.token_bytes(i) == b"\xe2")):
        for include_stop in (True, False):
            assembler = TextAssembler(
                tokenizer, [], SamplingParams(), skip_special_tokens=False, include_stop=include_stop
            )
            delta = TokenDelta(
                request_id="r", token_ids=[*output, end], finish_reason=FinishReason.STOP, stop_token_id=end
            )
            piece = assembler.feed(delta)
            assert piece.finish_reason is FinishReason.STOP
            shown = tokenizer.decode([end], skip_special_tokens=False) if include_stop else ""
            assert piece.text == text + shown
