"""Thoughts and answer come apart, however the text is cut."""

import pytest

from server.replies.reasoning import ReasoningParser, Thought


def read(pieces: list[str], *, has_begun: bool) -> Thought:
    parser = ReasoningParser(has_begun=has_begun)
    parts = [*map(parser.feed, pieces), parser.flush()]
    return Thought("".join(part.reasoning for part in parts), "".join(part.answer for part in parts))


CASES = [
    ("<think>\nSo.\n\nThen < 3\n</think>\n\nYes.\n", False, Thought("So.\n\nThen < 3", "Yes.\n")),
    ("\n So.</think>Yes", True, Thought("So.", "Yes")),
    (" \n<think>a</think>b</think>c<think>", False, Thought("a", "b</think>c<think>")),
    ("<think></think>\n\nYes", False, Thought("", "Yes")),
    ("  plain <think>text</think>", False, Thought("", "  plain <think>text</think>")),
    ("<thin", False, Thought("", "<thin")),
    ("<think>cut off </thi", False, Thought("cut off </thi", "")),
    ("cut off \n", True, Thought("cut off", "")),
    ("", True, Thought("", "")),
    ("", False, Thought("", "")),
]


@pytest.mark.parametrize(("text", "has_begun", "found"), CASES)
def test_thoughts_are_found_however_the_text_is_cut(text: str, has_begun: bool, found: Thought) -> None:
    assert read([text], has_begun=has_begun) == found
    assert read(list(text), has_begun=has_begun) == found
    for place in range(len(text) + 1):
        assert read([text[:place], text[place:]], has_begun=has_begun) == found
