"""Reading a Hugging Face config.json field by field, with errors that say what was expected. No torch."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from engine.errors import ModelLoadError
from engine.models.spec import Activation

Config = Mapping[str, Any]
T = TypeVar("T", int, float, str, bool)


class Renamed(Mapping[str, Any]):
    """The config of a family that has names or defaults of its own, read as if it were Llama's; null counts as absent.

    Args:
        config: config.json.
        names: the family's names -> Llama's.
        defaults: of its config class, by Llama's names.
    """

    def __init__(
        self, config: Config, names: Mapping[str, str] | None = None, defaults: Mapping[str, Any] | None = None
    ) -> None:
        self._config, self._names, self._defaults = config, names or {}, defaults or {}

    def spelled(self, name: str) -> str:
        """What the file calls `name`."""
        spellings = [theirs for theirs, ours in self._names.items() if ours == name]
        present = [spelling for spelling in (*spellings, name) if self._config.get(spelling) is not None]
        return next(iter((*present, *spellings, name)))

    def __getitem__(self, name: str) -> Any:
        value = self._config.get(self.spelled(name))
        return self._defaults[name] if value is None else value

    def __iter__(self) -> Iterator[str]:
        return iter({*(self._names.get(name, name) for name in self._config), *self._defaults})

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _spelled(config: Config, name: str) -> str:
    return config.spelled(name) if isinstance(config, Renamed) else name


def field(config: Config, name: str, kind: type[T], default: T | None = None) -> T:
    """The value of `name`, which must be of type `kind`; `default` where it is absent or null.

    Raises:
        ModelLoadError: absent without a default, or of another type.
    """
    value = config.get(name)
    if value is None:
        if default is None:
            raise ModelLoadError(f"config.json lacks {_spelled(config, name)!r}, which must be of type {kind.__name__}")
        return default
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ModelLoadError(f"config.json: {_spelled(config, name)!r} must be of type {kind.__name__}, got {value!r}")
    return value


def optional_float(config: Config, name: str) -> float | None:
    """A number, or None where it is absent or null."""
    return None if config.get(name) is None else field(config, name, float)


def positive(config: Config, name: str, default: int | None = None) -> int:
    """An integer field of at least 1."""
    value = field(config, name, int, default)
    if value < 1:
        raise ModelLoadError(f"config.json: {_spelled(config, name)!r} must be at least 1, got {value}")
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


def head_width(hidden_size: int, num_q_heads: int) -> int:
    """The head_dim of a config that does not state it.

    Raises:
        ModelLoadError: the hidden size cannot be cut into that many heads.
    """
    if hidden_size % num_q_heads:
        raise ModelLoadError(
            f"config.json: the hidden size ({hidden_size}) must be a multiple of the query heads ({num_q_heads})"
        )
    return hidden_size // num_q_heads


ACTIVATIONS = {
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "gelu": Activation.GELU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "gelu_fast": Activation.GELU_TANH,
    "relu": Activation.RELU,
    "relu2": Activation.RELU_SQUARED,
}
"""Hugging Face's names of activations."""


def activation(config: Config, name: str, default: str) -> Activation:
    """The activation that the text field `name` names.

    Raises:
        ModelLoadError: headcount does not know it.
    """
    key = field(config, name, str, default)
    if key not in ACTIVATIONS:
        known = ", ".join(sorted(ACTIVATIONS))
        raise ModelLoadError(f"config.json: {_spelled(config, name)!r} must be one of {known}, got {key!r}")
    return ACTIVATIONS[key]


def only(config: Config, name: str, *allowed: object) -> None:
    """Refuse a field whose value is neither absent nor one of `allowed`: the decoder would compute something else.

    Raises:
        ModelLoadError: naming the field, its value, and those that can be run.
    """
    value = config.get(name)
    if value is not None and not any(type(value) is type(a) and value == a for a in allowed):
        listed = " or ".join(repr(a) for a in allowed)
        spelled = _spelled(config, name)
        raise ModelLoadError(f"config.json: {spelled!r} is {value!r}, which headcount cannot run; it runs {listed}")


def fields_of(config: Config, name: str) -> Config:
    """The fields under `name`; none where it is absent or null.

    Raises:
        ModelLoadError: something else than fields.
    """
    value = config.get(name) or {}
    if not isinstance(value, dict):
        raise ModelLoadError(f"config.json: {_spelled(config, name)!r} must hold fields, got {value!r}")
    return value


def text_part(config: Config) -> dict[str, Any]:
    """Of a model that also sees: the config of the part that writes, with the whole model's name.

    What the part says about tied embeddings goes before what the whole does: of published checkpoints the first is true.
    """
    part, key = fields_of(config, "text_config"), "tie_word_embeddings"
    stated = [field(fields, key, bool) for fields in (part, config) if fields.get(key) is not None]
    tied = {key: stated[0]} if stated else {}
    return {**part, **tied, "architectures": config["architectures"]}
