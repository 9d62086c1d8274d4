"""Settings that cannot be used, said in one line a problem."""

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

Path = tuple[str, ...]


class SettingsError(ValueError):
    """Settings that cannot be used.

    Attributes:
        problems: one line each: what, the limit, what was given.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def suggest(given: str, known: Iterable[str]) -> str:
    """` (did you mean …?)` where `given` is close to a known name, else nothing."""
    close = difflib.get_close_matches(given, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def explain(error: ValidationError, label: Callable[[Path], str]) -> list[str]:
    """One line for each problem that pydantic found.

    Args:
        error: what pydantic raised.
        label: the place of a field -> what the user calls it, e.g. `--port` or `HEADCOUNT_PORT`.
    """
    return [_line(details, label) for details in error.errors(include_url=False)]


def _line(details: ErrorDetails, label: Callable[[Path], str]) -> str:
    path = tuple(part for part in details["loc"] if isinstance(part, str))
    if details["type"] == "value_error":
        reason = str(details["ctx"]["error"])
        return f"{label(path)} {reason}" if path and not isinstance(details["input"], Mapping) else reason
    known = details["type"] in _LIMITS
    limit = _LIMITS[details["type"]].format(**details.get("ctx", {})) if known else details["msg"].lower()
    return f"{label(path)} {limit}, got {_quoted(details['input'])}"


def _quoted(value: Any) -> str:
    """A value as the user wrote it: texts that look like numbers come from flags and variables."""
    text = str(value)
    return text if text and text.isprintable() and " " not in text else repr(value)


_LIMITS = {
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_type": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "too_short": "must be at least {min_length} long",
    "literal_error": "must be one of {expected}",
}
