"""Tokens become pieces of text; log-probabilities come with the text that they tell, never before it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.request import FinishReason, SamplingParams, TokenDelta
from server.text_assembler import Piece, TextAssembler
from server.tokenizer import Tokenizer
from tests.server import tiny_tokenizers as tiny
from tests.server.fake_engine import EOS_ID, VOCABULARY, encode, entry


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(tiny.save(tiny.byte_level(), tmp_path_factory.mktemp("tokenizer")))


def assembler(tokenizer: Tokenizer, *, include_stop: bool = False, skip: bool = True, **params: Any) -> TextAssembler:
    sampling = SamplingParams(**{"max_tokens": 50, **params})
    return TextAssembler(tokenizer, [1], sampling, skip_special_tokens=skip, include_stop=include_stop)


def feed(
    assembler: TextAssembler, token_ids: list[int], finish: FinishReason | None = None, stop_token_id: int | None = None
) -> list[Piece]:
    """One delta a token; the last one ends the output, where `finish` says so. Ends where the assembler does."""
    pieces: list[Piece] = []
    for place, token_id in enumerate(token_ids):
        is_last = place == len(token_ids) - 1
        delta = TokenDelta("r", [token_id], logprobs=[entry(token_id, 0)])
        if is_last:
            delta.finish_reason, delta.stop_token_id = finish, stop_token_id
        pieces.append(assembler.feed(delta))
        if pieces[-1].finish_reason is not None:
            break
    return pieces


def text(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def told(pieces: list[Piece]) -> list[int]:
    """Tokens whose log-probabilities are out."""
    return [placed.token_id for piece in pieces for placed in piece.logprobs]


def test_every_token_is_told_once_and_in_its_place(tokenizer: Tokenizer) -> None:
    token_ids = encode("hello é hello")
    pieces = feed(assembler(tokenizer), token_ids, FinishReason.LENGTH)
    assert text(pieces) == "hello é hello"
    assert told(pieces) == token_ids
    offsets = [placed.offset for piece in pieces for placed in piece.logprobs]
    words = [tokenizer.token_text(i) for i in token_ids]
    assert offsets == [len("".join(words[:i])) for i in range(len(words))]
    assert pieces[-1].finish_reason is FinishReason.LENGTH


def test_half_a_character_waits_with_its_log_probabilities(tokenizer: Tokenizer) -> None:
    euro = encode("€")
    assert len(euro) == 3
    pieces = feed(assembler(tokenizer), [*encode("h"), *euro, *encode("o")], FinishReason.LENGTH)
    assert [piece.text for piece in pieces] == ["h", "", "", "€", "o"]
    assert [len(piece.logprobs) for piece in pieces] == [1, 0, 0, 3, 1]
    assert [placed.offset for piece in pieces for placed in piece.logprobs] == [0, 1, 1, 1, 2]


def test_an_output_that_ends_within_a_character(tokenizer: Tokenizer) -> None:
    token_ids = encode("h€")[:-1]
    pieces = feed(assembler(tokenizer), token_ids, FinishReason.LENGTH)
    assert text(pieces) == "h\ufffd"
    assert told(pieces) == token_ids


def test_a_stop_string_is_held_with_its_log_probabilities(tokenizer: Tokenizer) -> None:
    token_ids = [VOCABULARY[char] for char in "abcdef"]
    pieces = feed(assembler(tokenizer, stop=("cde",)), token_ids)
    assert [piece.text for piece in pieces] == ["a", "b", "", "", ""]
    assert told(pieces) == token_ids[:2]
    assert pieces[-1].finish_reason is FinishReason.STOP
    near = feed(assembler(tokenizer, stop=("cdx",)), token_ids, FinishReason.LENGTH)
    assert [piece.text for piece in near] == ["a", "b", "", "", "cde", "f"]
    assert [len(piece.logprobs) for piece in near] == [1, 1, 0, 0, 3, 1]


def test_part_of_a_character_does_not_betray_a_stop_string(tokenizer: Tokenizer) -> None:
    pieces = feed(assembler(tokenizer, stop=("€",)), encode("h€"))
    assert text(pieces) == "h"
    assert told(pieces) == encode("h")


def test_a_stop_string_can_be_kept(tokenizer: Tokenizer) -> None:
    token_ids = [VOCABULARY[char] for char in "abcd"]
    pieces = feed(assembler(tokenizer, stop=("bc",), include_stop=True), token_ids)
    assert text(pieces) == "abc"
    assert told(pieces) == token_ids[:3]


def test_a_stop_string_within_a_token_ends_the_text_within_it(tokenizer: Tokenizer) -> None:
    pieces = feed(assembler(tokenizer, stop=("ll",)), encode("hello"))
    assert text(pieces) == "he"
    assert told(pieces) == []
    assert pieces[-1].finish_reason is FinishReason.STOP


def test_a_stop_string_that_ends_with_the_output(tokenizer: Tokenizer) -> None:
    pieces = feed(assembler(tokenizer, stop=("\ufffd",)), encode("h€")[:-1], FinishReason.LENGTH)
    assert text(pieces) == "h"
    assert pieces[-1].finish_reason is FinishReason.STOP


@pytest.mark.parametrize("include_stop", [False, True])
def test_a_stop_token_is_told_but_written_only_where_asked_for(tokenizer: Tokenizer, include_stop: bool) -> None:
    token_ids = [*encode("hello"), EOS_ID]
    end = (FinishReason.STOP, EOS_ID)
    made = assembler(tokenizer, include_stop=include_stop, skip=False)
    pieces = feed(made, token_ids, *end)
    assert text(pieces) == ("hello" + tiny.EOS if include_stop else "hello")
    assert told(pieces) == token_ids
    assert text(feed(assembler(tokenizer, include_stop=include_stop), token_ids, *end)) == "hello"


def test_too_early_to_stop(tokenizer: Tokenizer) -> None:
    token_ids = [VOCABULARY[char] for char in "ababab"]
    pieces = feed(assembler(tokenizer, stop=("b",), min_tokens=4), token_ids)
    assert text(pieces) == "aba"
    assert len(pieces) == 4
    straddles = feed(assembler(tokenizer, stop=("ab",), min_tokens=2), token_ids)
    assert text(straddles) == "ab", "what was out before may be no part of a match"


def test_several_tokens_in_one_delta(tokenizer: Tokenizer) -> None:
    token_ids = [VOCABULARY[char] for char in "abcd"]
    delta = TokenDelta("r", token_ids, logprobs=[entry(i, 0) for i in token_ids])
    piece = assembler(tokenizer, stop=("c",)).feed(delta)
    assert (piece.text, piece.finish_reason) == ("ab", FinishReason.STOP)
    assert told([piece]) == token_ids[:2]


def test_without_log_probabilities_there_are_none(tokenizer: Tokenizer) -> None:
    piece = assembler(tokenizer).feed(TokenDelta("r", encode("hello"), finish_reason=FinishReason.LENGTH))
    assert piece == Piece("hello", [], FinishReason.LENGTH, [VOCABULARY["hello"]])


SPLIT_TOKENS = st.sampled_from(
    [i for text in ("hello é", "a", "b", "🌍漢") for i in encode(text)] + [EOS_ID, *(VOCABULARY[c] for c in "ĲÃ")]
)
STOPS = st.lists(st.text(st.sampled_from("abhello é🌍漢\ufffd"), min_size=1, max_size=4), max_size=3).map(tuple)


def cut(text: str, stops: tuple[str, ...]) -> str:
    """`text` up to the stop string that is complete first, the longest of those that end there."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))]
    return text


@given(st.lists(SPLIT_TOKENS, min_size=1, max_size=14), STOPS, st.integers(1, 4))
def test_no_part_of_a_stop_string_ever_gets_out(
    tokenizer: Tokenizer, token_ids: list[int], stops: tuple[str, ...], delta_size: int
) -> None:
    """However characters and stop strings lie across tokens, and tokens across deltas."""
    expected = cut(tokenizer.decode(token_ids, skip_special_tokens=True), stops)
    made, pieces = assembler(tokenizer, stop=stops), []
    for start in range(0, len(token_ids), delta_size):
        delta = TokenDelta("r", token_ids[start : start + delta_size])
        delta.logprobs = [entry(i, 0) for i in delta.token_ids]
        is_last = start + delta_size >= len(token_ids)
        delta.finish_reason = FinishReason.LENGTH if is_last else None
        pieces.append(made.feed(delta))
        assert expected.startswith(text(pieces)), "what is out is never taken back"
        if pieces[-1].finish_reason is not None:
            break
    assert text(pieces) == expected
    ids = [token_id for piece in pieces for token_id in piece.token_ids]
    assert ids == token_ids[: len(ids)], "each token once, in order"
    assert told(pieces) == ids[: len(told(pieces))]
