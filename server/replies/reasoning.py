"""Splits what a model thinks (`<think>…</think>`) from what it answers."""

from typing import NamedTuple

from server.stop_strings import num_held_chars

BEGIN, END = "<think>", "</think>"


class Thought(NamedTuple):
    """What a piece of text adds."""

    reasoning: str = ""
    answer: str = ""


class ReasoningParser:
    """Takes a text that comes in pieces apart; however it is cut, the parts joined are the same.

    Blanks around the thoughts belong to the markers.

    Args:
        has_begun: the prompt ended with `<think>`; else the text may begin with it.
    """

    def __init__(self, *, has_begun: bool) -> None:
        self._rest = ""
        self._has_begun = has_begun
        self._has_thought = False
        self._has_ended = False
        self._has_answer = False

    def feed(self, text: str) -> Thought:
        """What a piece adds."""
        self._rest += text
        return self._split(is_last=False)

    def flush(self) -> Thought:
        """The text is complete: what was held back."""
        return self._split(is_last=True)

    def _split(self, *, is_last: bool) -> Thought:
        if not self._has_begun and not self._has_ended:
            self._read_beginning(is_last=is_last)
        reasoning = self._read_reasoning(is_last=is_last) if self._has_begun and not self._has_ended else ""
        return Thought(reasoning, self._read_answer() if self._has_ended else "")

    def _read_beginning(self, *, is_last: bool) -> None:
        start = self._rest.lstrip()
        if start.startswith(BEGIN):
            self._has_begun, self._rest = True, start[len(BEGIN) :]
        elif is_last or not BEGIN.startswith(start):
            self._has_ended = self._has_answer = True  # there are no thoughts: all is answer, its first blanks too

    def _read_reasoning(self, *, is_last: bool) -> str:
        if not self._has_thought:
            self._rest = self._rest.lstrip()
        text, found, after = self._rest.partition(END)
        if found:
            self._has_ended, self._rest = True, after
            return text.rstrip()
        num_held = 0 if is_last else num_held_chars(text, (END,))
        thought = text[: len(text) - num_held].rstrip()  # blanks before the end marker are not known as such yet
        self._has_thought, self._rest = self._has_thought or bool(thought), "" if is_last else text[len(thought) :]
        return thought

    def _read_answer(self) -> str:
        text = self._rest if self._has_answer else self._rest.lstrip()
        self._has_answer, self._rest = self._has_answer or bool(text), ""
        return text
