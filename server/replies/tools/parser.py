"""Finds calls of tools in a model's text. What looks like a call and is none stays text."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar, NamedTuple

from server.replies.object_scanner import ObjectScanner
from server.stop_strings import num_held_chars

ARGUMENTS = ("arguments", "parameters")
MEMBERS = frozenset((*ARGUMENTS, "name", "type", "id"))
"""What an object that is a call may have."""

Spell = Callable[[str], str]
"""How a grammar says a marker of a format, which may be a special token."""


class CallPart(NamedTuple):
    """A call, or what a piece of text adds to one.

    Attributes:
        call_idx: which of the answer's calls.
        name: of the function, in the call's first part.
        arguments: JSON, or more of it.
    """

    call_idx: int
    name: str | None
    arguments: str


Part = str | CallPart


class Opening(NamedTuple):
    """What is between the beginning of calls and the object of the first.

    Attributes:
        num_chars: to skip.
        name: of the function, where it stands there; the object is then its arguments.
        is_call: False: no call can follow.
    """

    num_chars: int = 0
    name: str | None = None
    is_call: bool = True


NO_CALL = Opening(is_call=False)


class After(NamedTuple):
    """What follows a call.

    Attributes:
        num_chars: to skip.
        has_call: another call's object begins there.
    """

    num_chars: int = 0
    has_call: bool = False


class ToolParser(ABC):
    """Splits a text that comes in pieces into text and calls; however it is cut, the parts joined are the same.

    Args:
        names: of the functions that may be called.
        is_certain: a grammar makes the calls, so none can prove wrong at its end: their arguments come as they are
            written. Else a call comes when it is complete.

    Attributes:
        begin: what calls begin with.
        markers: texts that the format is made of, which a vocabulary may have as special tokens.
        id_chars: length of a call's id.
    """

    begin: ClassVar[str]
    markers: ClassVar[tuple[str, ...]]
    id_chars: ClassVar[int] = 24

    def __init__(self, names: Collection[str], *, is_certain: bool) -> None:
        self._names = names
        self._is_certain = is_certain
        self._read = self._read_text
        self._rest = ""
        self._lead = ""
        self._outer_name: str | None = None
        self._scanner = ObjectScanner()
        self._num_calls = 0
        self._num_given: int | None = None

    @classmethod
    @abstractmethod
    def is_used_by(cls, template: str) -> bool:
        """Whether the model of this chat template writes calls so."""

    @classmethod
    @abstractmethod
    def rules(cls, names: Sequence[str], spell: Spell, template: str) -> str:
        """How a grammar writes calls.

        Args:
            names: of the functions; the arguments of number i are `@arguments_i`.
            spell: says the markers.
            template: the model's chat template.

        Returns:
            Lark with the rules `one` (a call), `several` (one or more) and `free` (text, with calls in it or none).
        """

    def feed(self, text: str) -> list[Part]:
        """What a piece adds."""
        self._rest += text
        return self._run(is_last=False)

    def flush(self) -> list[Part]:
        """The text is complete: what was held back."""
        return self._run(is_last=True)

    @abstractmethod
    def _opening(self, rest: str) -> Opening | None:
        """What follows `begin`; None: that may show later."""

    @abstractmethod
    def _after(self, rest: str) -> After | None:
        """What follows a call; None: that may show later."""

    def _run(self, *, is_last: bool) -> list[Part]:
        parts: list[Part] = []
        while (made := self._read(is_last)) is not None:
            parts += made
        return parts

    def _read_text(self, is_last: bool) -> list[Part] | None:
        """Up to the next `begin`. Like all that read: the parts that are certain, or None where more text is needed."""
        text, found, after = self._rest.partition(self.begin)
        if found:
            self._lead, self._rest, self._read = self.begin, after, self._read_opening
            return [text] if text else []
        num_held = 0 if is_last else num_held_chars(text, (self.begin,))
        text, self._rest = text[: len(text) - num_held], text[len(text) - num_held :]
        return [text] if text else None

    def _read_opening(self, is_last: bool) -> list[Part] | None:
        opening = self._opening(self._rest)
        if opening is None:
            return self._give_up() if is_last else None
        if not opening.is_call or opening.name not in (None, *self._names):
            return self._give_up()
        self._begin_call(opening.num_chars, opening.name)
        return []

    def _read_call(self, is_last: bool) -> list[Part] | None:
        is_fed = bool(self._rest)
        self._rest = self._scanner.feed(self._rest)
        if self._scanner.is_broken or not self._may_be_call():
            return self._give_up()
        parts: list[Part] | None = []
        if self._is_certain:
            parts = self._new_arguments()
        elif self._scanner.is_complete:
            parts = self._whole_call()
        if self._scanner.is_complete and (parts is None or self._num_given is None):
            return self._give_up()
        if self._scanner.is_complete:
            self._num_calls += 1
            self._read, self._num_given = self._read_after, None
        elif is_last and not self._is_certain:
            return self._give_up()
        return parts if is_fed else None

    def _read_after(self, is_last: bool) -> list[Part] | None:
        after = self._after(self._rest)
        if after is None and not is_last:
            return None
        if after is not None and after.has_call:
            self._lead = ""
            self._begin_call(after.num_chars, None)
        else:
            # At the end of the text what may be the beginning of a marker is nothing else.
            self._rest = self._rest[after.num_chars :] if after else ""
            self._read = self._read_text
        return []

    def _begin_call(self, num_chars: int, name: str | None) -> None:
        self._lead += self._rest[:num_chars]
        self._rest = self._rest[num_chars:]
        self._outer_name, self._scanner, self._read = name, ObjectScanner(), self._read_call

    def _give_up(self) -> list[Part]:
        """It was no call: what it began with is text, and the rest is read again."""
        text, self._lead = self._lead, ""
        self._rest = self._scanner.text + self._rest
        self._scanner, self._read, self._num_given = ObjectScanner(), self._read_text, None
        return [text] if text else []

    def _may_be_call(self) -> bool:
        """False as soon as the object has a member that calls have not."""
        is_arguments = self._outer_name is not None
        return is_arguments or set(self._scanner.names) <= MEMBERS

    def _new_arguments(self) -> list[Part]:
        """What the certain call has more than at the last time."""
        name = self._outer_name or self._scanner.value("name")
        span = (0, len(self._scanner.text)) if self._outer_name else self._scanner.span(ARGUMENTS)
        if not isinstance(name, str) or span is None:
            return []
        arguments = self._scanner.text[slice(*span)].lstrip()
        is_first = self._num_given is None
        new = arguments[self._num_given or 0 :]
        self._num_given = len(arguments)
        return [CallPart(self._num_calls, name if is_first else None, new)] if is_first or new else []

    def _whole_call(self) -> list[Part] | None:
        """The complete call; None where it is none."""
        try:
            content = json.loads(self._scanner.text)
        except (ValueError, RecursionError):
            return None
        name = self._outer_name or content.get("name")
        text: str | None = self._scanner.text
        if self._outer_name is None:
            arguments: Any = next((content[key] for key in ARGUMENTS if key in content), {})
            text = _arguments_text(arguments, self._scanner)
        if not isinstance(name, str) or name not in self._names or text is None:
            return None
        self._num_given = len(text)
        return [CallPart(self._num_calls, name, text)]


def _arguments_text(arguments: Any, scanner: ObjectScanner) -> str | None:
    """Arguments as the model wrote them: an object, or one within a string; None where they are neither."""
    if isinstance(arguments, dict):
        span = scanner.span(ARGUMENTS)
        return scanner.text[slice(*span)].strip() if span else "{}"
    try:
        is_object = isinstance(arguments, str) and isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        return None
    return arguments if is_object else None


def opening_at_brace(rest: str) -> Opening | None:
    """Where a call is an object right behind the marker; see ToolParser._opening."""
    num_blanks = skip_blanks(rest)
    if num_blanks == len(rest):
        return None
    return Opening(num_blanks) if rest[num_blanks] == "{" else NO_CALL


def skip_blanks(text: str) -> int:
    """Blanks that `text` begins with."""
    return len(text) - len(text.lstrip())


def free_rules(begin: str) -> str:
    """The rule `free`: text in which calls may begin; what follows the beginning is the rule `body`.

    Args:
        begin: the marker in Lark.
    """
    # Lazy: the marker ends the text wherever it comes. A special token is no text, so it needs no care.
    lead = "lead" if begin.startswith("<") else "lead[lazy]"
    return f"free: (lead body)* text\n{lead}: /(.|\\n)*/ {begin}\ntext: /(.|\\n)*/\n"
