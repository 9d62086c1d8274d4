"""Ends a text at the first stop string, and never lets part of one out before it is certain."""

from collections.abc import Collection
from typing import NamedTuple


class Released(NamedTuple):
    """What may be shown.

    Attributes:
        text: safe to send.
        is_stopped: a stop string was found; `text` ends where the output ends.
    """

    text: str
    is_stopped: bool


class StopMatcher:
    """Looks for stop strings across the borders of the pieces that a text arrives in.

    Args:
        stop: the strings; none lets everything through at once.
        include_stop: keep the stop string that ends the text.
    """

    def __init__(self, stop: tuple[str, ...], *, include_stop: bool) -> None:
        self._stop = stop
        self._include_stop = include_stop
        self._held = ""

    def feed(self, text: str) -> Released:
        r"""Add a piece. What could still become a stop string is held back.

        With the stop string "\\n\\n", the piece "one\\n" releases "one"; "two" after it releases "\\ntwo".
        """
        if not self._stop:
            return Released(text, is_stopped=False)
        self._held += text
        if (end := self._end_of_text()) is not None:
            text, self._held = self._held[:end], ""
            return Released(text, is_stopped=True)
        safe = len(self._held) - num_held_chars(self._held, self._stop)
        text, self._held = self._held[:safe], self._held[safe:]
        return Released(text, is_stopped=False)

    def flush(self) -> str:
        """The text is complete: what was held back is no stop string."""
        text, self._held = self._held, ""
        return text

    def _end_of_text(self) -> int | None:
        """Where the output ends: at the stop string that is complete first, the longest of those that end there.

        "Complete first" is the only rule that gives the same text however the pieces are cut.
        """
        starts = [(self._held.find(stop), len(stop)) for stop in self._stop]
        found = [(start + length, start) for start, length in starts if start >= 0]
        if not found:
            return None
        end, start = min(found)
        return end if self._include_stop else start


def num_held_chars(text: str, strings: Collection[str]) -> int:
    """The length of the longest suffix of `text` that begins one of the strings, and is not all of it."""
    longest = min(len(text), max(map(len, strings)) - 1)
    for length in range(longest, 0, -1):
        if any(string.startswith(text[-length:]) for string in strings):
            return length
    return 0
