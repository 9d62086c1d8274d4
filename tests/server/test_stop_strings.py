"""A stop string ends the text in the same place however the text arrives, and nothing of it gets out early."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.stop_strings import StopMatcher

TEXTS = st.text("ab\né", max_size=40)
STOPS = st.lists(st.text("ab\né", min_size=1, max_size=5), max_size=4).map(tuple)
CUTS = st.lists(st.integers(0, 40), max_size=12)


def expected(text: str, stops: tuple[str, ...], *, include_stop: bool) -> str:
    """The rule, said in another way: the shortest beginning of the text that ends with a stop string."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end if include_stop else end - max(map(len, ending))]
    return text


def cut(text: str, places: list[int]) -> list[str]:
    borders = sorted({0, len(text), *(place for place in places if place < len(text))})
    return [text[a:b] for a, b in pairwise(borders)]


@given(TEXTS, STOPS, CUTS, st.booleans())
def test_the_cuts_do_not_matter(text: str, stops: tuple[str, ...], places: list[int], include_stop: bool) -> None:
    matcher = StopMatcher(stops, include_stop=include_stop)
    whole = expected(text, stops, include_stop=include_stop)
    fed = released = ""
    is_stopped = False
    for piece in cut(text, places):
        fed += piece
        new, is_stopped = matcher.feed(piece)
        released += new
        assert whole.startswith(released), "what is out stays out"
        if is_stopped:
            break
        assert len(fed) - len(released) < max(map(len, stops), default=1), "no more is held than could be needed"
    if not is_stopped:
        released += matcher.flush()
    assert released == whole
    assert is_stopped == any(stop in text for stop in stops)


@given(TEXTS, STOPS)
def test_no_stop_string_gets_out(text: str, stops: tuple[str, ...]) -> None:
    matcher = StopMatcher(stops, include_stop=False)
    released = ""
    for char in text:
        new, is_stopped = matcher.feed(char)
        released += new
        assert not any(stop in released for stop in stops)
        if is_stopped:
            return
    # What is held is the longest end that could still become a stop string; so none of it may go out before.
    held = text[len(released) :]
    beginnings = {stop[:length] for stop in stops for length in range(1, len(stop))}
    longest = max((length for length in range(1, len(text) + 1) if text[-length:] in beginnings), default=0)
    assert len(held) == longest


@pytest.mark.parametrize(
    ("stops", "pieces", "text", "with_stop"),
    [
        (("\n\n",), ["one\n", "two\n", "\nthree"], "one\ntwo", "one\ntwo\n\n"),
        (("STOP",), ["aST", "OP more"], "a", "aSTOP"),
        (("b", "abc"), ["abc"], "a", "ab"),  # the one that is complete first
        (("b", "ab"), ["xab"], "x", "xab"),  # of two that end in one place, the longer
        (("aab",), ["aaab"], "a", "aaab"),
        (("é",), ["caf", "é!"], "caf", "café"),
    ],
)
def test_examples(stops: tuple[str, ...], pieces: list[str], text: str, with_stop: str) -> None:
    for include_stop, wanted in ((False, text), (True, with_stop)):
        matcher = StopMatcher(stops, include_stop=include_stop)
        released = ""
        for piece in pieces:
            new, is_stopped = matcher.feed(piece)
            released += new
            if is_stopped:
                break
        assert is_stopped
        assert released == wanted


def test_without_stop_strings_everything_passes_at_once() -> None:
    matcher = StopMatcher((), include_stop=False)
    assert matcher.feed("a\n") == ("a\n", False)
    assert matcher.flush() == ""
