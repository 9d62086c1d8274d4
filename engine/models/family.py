"""What a page under families/ provides, and how it names tensors. No torch."""

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from engine.models.config_fields import Config
from engine.models.spec import DecoderSpec


class WeightSource(NamedTuple):
    """One checkpoint tensor and where it goes.

    Attributes:
        name: the tensor's name in the checkpoint.
        parameter: our name (see DecoderSpec.parameter_shapes).
        rows: [start, stop) of the parameter's first dimension that it fills; None: all of it.
        is_transposed: the checkpoint keeps it as [in, out].
    """

    name: str
    parameter: str
    rows: tuple[int, int] | None = None
    is_transposed: bool = False


class WeightMap(msgspec.Struct, frozen=True):
    """All tensors of a checkpoint.

    Attributes:
        sources: the tensors that are needed.
        optional_prefix: some checkpoints of the family leave it off every name.
        ignored: patterns (regular expressions, whole name) of tensors that carry nothing to load.
    """

    sources: list[WeightSource]
    optional_prefix: str = ""
    ignored: tuple[str, ...] = ()


class Family(NamedTuple):
    """A model family: its config reader and its tensor names."""

    build_spec: Callable[[Config], DecoderSpec]
    build_weight_map: Callable[[DecoderSpec], WeightMap]


def stacked(names_and_heights: list[tuple[str, int]], parameter: str) -> list[WeightSource]:
    """Tensors that fill one parameter from the top down, each with its number of rows."""
    sources, start = [], 0
    for name, height in names_and_heights:
        sources.append(WeightSource(name, parameter, (start, start + height)))
        start += height
    return sources
