"""Norms, as data."""

import enum

import msgspec


class NormKind(enum.StrEnum):
    """How activations are normalised."""

    RMS = "rms"
    """x / rms(x) (Zhang and Sennrich 2019)."""
    LAYER = "layer"
    """(x - mean) / std (Ba et al. 2016)."""


class NormSpec(msgspec.Struct, frozen=True):
    """A norm and what follows it: x * (weight + weight_offset) + bias."""

    kind: NormKind
    eps: float
    has_weight: bool = True
    has_bias: bool = False
    weight_offset: float = 0.0
    """1 where the checkpoint keeps the weight's distance from 1 (Gemma, Nemotron)."""

    def shapes(self, name: str, *shape: int) -> dict[str, tuple[int, ...]]:
        """The parameters of a norm called `name` whose weight has this shape."""
        shapes: dict[str, tuple[int, ...]] = {}
        if self.has_weight:
            shapes[f"{name}.weight"] = shape
        if self.has_bias:
            shapes[f"{name}.bias"] = shape
        return shapes
