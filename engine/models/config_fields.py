"""Reading a Hugging Face config.json field by field, with errors that say what was expected. No torch."""

from collections.abc import Mapping
from typing import Any, TypeVar

from engine.errors import ModelLoadError

Config = Mapping[str, Any]
T = TypeVar("T", int, float, str, bool)


def field(config: Config, name: str, kind: type[T], default: T | None = None) -> T:
    """The value of `name`, which must be of type `kind`; `default` where it is absent or null.

    Raises:
        ModelLoadError: absent without a default, or of another type.
    """
    value = config.get(name)
    if value is None:
        if default is None:
            raise ModelLoadError(f"config.json lacks {name!r}, which must be of type {kind.__name__}")
        return default
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ModelLoadError(f"config.json: {name!r} must be of type {kind.__name__}, got {value!r}")
    return value  # type: ignore[no-any-return]


def positive(config: Config, name: str, default: int | None = None) -> int:
    """An integer field of at least 1."""
    value = field(config, name, int, default)
    if value < 1:
        raise ModelLoadError(f"config.json: {name!r} must be at least 1, got {value}")
    return value


def head_counts(num_q_heads: int, num_kv_heads: int) -> tuple[int, int]:
    """The two counts, where each KV head serves the same number of query heads.

    Raises:
        ModelLoadError: num_q_heads is no multiple of num_kv_heads.
    """
    if num_q_heads % num_kv_heads:
        raise ModelLoadError(
            f"config.json: the query heads ({num_q_heads}) must be a multiple of the key/value heads ({num_kv_heads}):"
            " each key/value head serves a group of query heads of the same size"
        )
    return num_q_heads, num_kv_heads


def one_of(config: Config, name: str, values: Mapping[str, T], default: str) -> T:
    """What `values` holds for the text field `name`.

    Raises:
        ModelLoadError: the text is not among the keys of `values`.
    """
    key = field(config, name, str, default)
    if key not in values:
        raise ModelLoadError(f"config.json: {name!r} must be one of {', '.join(sorted(values))}, got {key!r}")
    return values[key]
