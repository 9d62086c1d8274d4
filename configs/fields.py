"""Settings by their flat names: what a flag, a variable or a TOML key is called."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from configs.base import Settings
from configs.errors import SettingsError, explain, suggest

S = TypeVar("S", bound=Settings)


def flat_fields(kind: type[Settings]) -> dict[str, tuple[str, ...]]:
    """Flat name -> path for every field of `kind` and of the settings nested in it.

    `max_num_seqs` of the engine's settings is at `("scheduler", "max_num_seqs")`.
    """
    fields: dict[str, tuple[str, ...]] = {}
    for name, info in kind.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Settings):
            fields |= {flat: (name, *path) for flat, path in flat_fields(info.annotation).items()}
        else:
            fields[name] = (name,)
    return fields


def with_overrides(settings: S, values: Mapping[str, Any], source: str) -> S:
    """`settings` with some fields, given by flat name, replaced.

    Args:
        settings: left as it is.
        values: flat name -> value.
        source: where the values come from, for the error's text.

    Raises:
        SettingsError: an unknown name or a value out of range.
    """
    fields = flat_fields(type(settings))
    check_names(values, fields, source)
    nested = settings.model_dump()
    for name, value in values.items():
        *parents, leaf = fields[name]
        group = nested
        for parent in parents:
            group = group[parent]
        group[leaf] = value
    try:
        return type(settings).model_validate(nested)
    except ValidationError as error:
        raise SettingsError(*explain(error, lambda path: f"{path[-1]} in {source}")) from None


def check_names(given: Mapping[str, Any], known: Mapping[str, Any], source: str) -> None:
    """Refuse names that are not known.

    Raises:
        SettingsError: one line for each unknown name, with the nearest known one.
    """
    problems = [f"unknown setting {name} in {source}{suggest(name, known)}" for name in given if name not in known]
    if problems:
        raise SettingsError(*problems)
