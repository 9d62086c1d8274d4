"""Finds where a JSON object in a growing text ends, and what its members are, looking at each character once."""

import json
from collections.abc import Sequence
from typing import Any

BLANKS = " \t\r\n"


class ObjectScanner:
    """Reads an object character by character. Only brackets and strings count here: whether it is JSON, a parser says.

    Attributes:
        is_complete: the object has ended; it is `text`.
        is_broken: what was read begins no object, or a name in it is none.
    """

    def __init__(self) -> None:
        self._members: dict[str, tuple[int, int]] = {}
        self._open: tuple[str, int] | None = None
        self.is_complete = False
        self.is_broken = False
        self._text = ""
        self._place = 0
        self._depth = 0
        self._string_start: int | None = None
        self._is_escaped = False
        self._name: str | None = None

    @property
    def text(self) -> str:
        """All that was read."""
        return self._text[: self._place]

    @property
    def names(self) -> list[str]:
        """The members so far, the one that is being read included."""
        return [*self._members, *([self._open[0]] if self._open else [])]

    def span(self, names: Sequence[str]) -> tuple[int, int] | None:
        """Where in `text` the value of a member is that has one of these names, as far as it is read."""
        if self._open is not None and self._open[0] in names:
            return self._open[1], self._place
        return next((self._members[name] for name in names if name in self._members), None)

    def value(self, name: str) -> Any:
        """A member's value, once it is read; None where it is no JSON."""
        if name not in self._members:
            return None
        try:
            return json.loads(self._text[slice(*self._members[name])])
        except (ValueError, RecursionError):
            return None

    def feed(self, text: str) -> str:
        """Read on; what is left of `text` behind the object's end."""
        self._text += text
        while self._place < len(self._text) and not (self.is_complete or self.is_broken):
            self._step(self._text[self._place])
            self._place += 1
        return self._text[self._place :]

    def _step(self, char: str) -> None:
        if self._string_start is not None:
            self._step_in_string(char)
        elif self._depth == 0:
            self.is_broken = char != "{"
            self._depth = 1
        elif char == '"':
            self._string_start = self._place
        elif char in "{[":
            self._depth += 1
        elif char in "}]":
            self._depth -= 1
            if self._depth == 0:
                self._end_member()
                self.is_complete = True
        elif self._depth == 1:
            self._step_between(char)

    def _step_in_string(self, char: str) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif char == "\\":
            self._is_escaped = True
        elif char == '"':
            if self._depth == 1 and self._open is None:
                self._read_name()
            self._string_start = None

    def _step_between(self, char: str) -> None:
        """At the members of the object itself."""
        if char == ":" and self._name is not None:
            self._open, self._name = (self._name, self._place + 1), None
        elif char == ",":
            self._end_member()
        elif self._open is None and char not in BLANKS:
            self.is_broken = True

    def _read_name(self) -> None:
        try:
            self._name = str(json.loads(self._text[self._string_start : self._place + 1]))
        except ValueError:
            self.is_broken = True

    def _end_member(self) -> None:
        if self._open is not None:
            name, start = self._open
            self._members[name] = (start, self._place)
            self._open = None
