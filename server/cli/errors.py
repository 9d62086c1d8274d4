"""What the command line says when something is wrong: one line a problem, and what to do."""

from collections.abc import Iterator

from cyclopts import Argument, CycloptsError, Token
from pydantic import ValidationError

from configs.errors import Path, explain
from configs.load import ENV_PREFIX


class CommandError(Exception):
    """A command that cannot do what it is asked; the message says why, and what to do."""


def usage_problems(error: CycloptsError) -> list[str]:
    """A mistake on the command line, in the environment or in a settings file, one line a problem; then where to look."""
    cause = error.__cause__
    if isinstance(cause, ValidationError) and error.argument is not None:
        names = _names(error.argument)
        lines = explain(cause, lambda path: names.get(path) or "--" + "-".join(path[-1:]).replace("_", "-"))
    else:
        lines = str(error).strip().splitlines()
    command = " ".join(["headcount", *(error.command_chain or ())])
    return [*lines, f"see `{command} --help`"]


def _names(root: Argument) -> dict[Path, str]:
    """Place of a setting -> what the user wrote to set it."""
    return {tuple(argument.keys): _name(argument, argument.tokens[0]) for argument in _walk(root) if argument.tokens}


def _walk(argument: Argument) -> Iterator[Argument]:
    yield argument
    for child in argument.children:
        yield from _walk(child)


def _name(argument: Argument, token: Token) -> str:
    setting = argument.keys[-1] if argument.keys else argument.name
    if token.source == "cli":
        return token.keyword or argument.name
    return f"{ENV_PREFIX}{setting.upper()}" if token.source == "the environment" else f"{setting} in {token.source}"
