"""A table of names -> where every tensor of a checkpoint goes. No torch.

The spec says which parameters a model has; a family's table says what its checkpoints call them.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Self

import msgspec

from engine.models.spec import DecoderSpec


class RowOrder(NamedTuple):
    """Rows of a checkpoint tensor in the order in which the decoder wants them.

    Attributes:
        num_rows: that the tensor has.
        rows: which of them are taken.
    """

    num_rows: int
    rows: tuple[int, ...]


class Tensors(msgspec.Struct, frozen=True):
    """The checkpoint tensors that make up one parameter.

    Attributes:
        names: stacked from the top down. `{member}` in a name stands for every index of the parameter's first dimension.
            A layer's tensor that lies outside its layer has a name with `{layer}`, its index, in place of the prefix.
        is_transposed: the checkpoint keeps them as [in, out].
        order: (spec, layer index) -> the order of rows, where it is not the decoder's.
    """

    names: tuple[str, ...]
    is_transposed: bool = False
    order: Callable[[DecoderSpec, int], RowOrder] | None = None


def tensors(
    *names: str, is_transposed: bool = False, order: Callable[[DecoderSpec, int], RowOrder] | None = None
) -> Tensors:
    """See Tensors."""
    return Tensors(names, is_transposed, order)


class TensorNames(msgspec.Struct, frozen=True):
    """What a family calls its tensors.

    Keys are our names (DecoderSpec.parameter_shapes), with `.weight` or `.bias` or without; a key without stands for
    both, and the ending is added to the checkpoint's name.

    Attributes:
        layer_prefix: what the names of a layer's tensors begin with; `{}` is the layer's index.
        layer: names within a layer.
        top: all others.
        optional_prefix: some checkpoints leave it off every name.
        ignored: patterns (regular expressions, whole name) of tensors that carry nothing to load.
    """

    layer_prefix: str
    layer: dict[str, str | Tensors]
    top: dict[str, str | Tensors]
    optional_prefix: str = ""
    ignored: tuple[str, ...] = ()

    def with_layer(self, names: dict[str, str | Tensors]) -> Self:
        """The same table with other names in the layers."""
        return msgspec.structs.replace(self, layer={**self.layer, **names})

    def with_top(self, names: dict[str, str | Tensors]) -> Self:
        """The same table with other names outside the layers."""
        return msgspec.structs.replace(self, top={**self.top, **names})

    def of_text_part(self, config: Mapping[str, Any]) -> Self:
        """The same table; of a model that also sees, that of its text part, whose names have a prefix there."""
        if "text_config" not in config:
            return self
        prefix, top = "language_model.", dict[str, str | Tensors]()
        for key, found in self.top.items():
            entry = _as_tensors(found)
            top[key] = msgspec.structs.replace(entry, names=tuple(prefix + name for name in entry.names))
        ignored = (*(re.escape(prefix) + name for name in self.ignored), r"(vision_tower|multi_modal_projector)\..*")
        return msgspec.structs.replace(self, layer_prefix=prefix + self.layer_prefix, top=top, ignored=ignored)


class WeightSource(NamedTuple):
    """One checkpoint tensor and where it goes.

    Attributes:
        name: the tensor's name in the checkpoint.
        parameter: our name (see DecoderSpec.parameter_shapes).
        member: index of the parameter's first dimension, where it fills only that.
        rows: [start, stop) of what is left that it fills; None: all of it.
        is_transposed: the checkpoint keeps it as [in, out].
        order: of its rows, after that.
    """

    name: str
    parameter: str
    member: int | None = None
    rows: tuple[int, int] | None = None
    is_transposed: bool = False
    order: RowOrder | None = None


class WeightMap(msgspec.Struct, frozen=True):
    """All tensors of a checkpoint.

    Attributes:
        sources: the tensors that are needed.
        optional_prefix: some checkpoints of the family leave it off every name.
        ignored: patterns (regular expressions, whole name) of tensors that carry nothing to load.
        table_again: where the embedding table is the output projection: what the checkpoint would call the latter. Some
            hold the table under both names.
    """

    sources: list[WeightSource]
    optional_prefix: str = ""
    ignored: tuple[str, ...] = ()
    table_again: str = ""


def build_weight_map(spec: DecoderSpec, names: TensorNames) -> WeightMap:
    """Where every tensor of a checkpoint of this model goes."""
    sources = [
        source
        for parameter, shape in spec.parameter_shapes().items()
        for source in _sources(spec, names, parameter, shape)
    ]
    table_again = f"{_look_up(names.top, 'lm_head.weight')[0].names[0]}.weight" if spec.head.is_tied else ""
    return WeightMap(sources, names.optional_prefix, names.ignored, table_again)


def _sources(spec: DecoderSpec, names: TensorNames, parameter: str, shape: tuple[int, ...]) -> Iterator[WeightSource]:
    """The tensors that make up one parameter."""
    layer_idx, part, prefix, table = 0, parameter, "", names.top
    if parameter.startswith("layers."):
        _, index, part = parameter.split(".", 2)
        layer_idx, table = int(index), names.layer
        prefix = names.layer_prefix.format(index)
    found, ending = _look_up(table, part)
    order = found.order(spec, layer_idx) if found.order else None
    full_names = [_full_name(prefix, name, layer_idx) + ending for name in found.names]
    is_transposed = found.is_transposed and not parameter.endswith(".bias")
    has_members = "{member}" in full_names[0]
    places = _places(spec, layer_idx, part, shape[1:] if has_members else shape, len(full_names))
    for member in range(shape[0]) if has_members else [None]:
        for name, rows in zip(full_names, places, strict=True):
            yield WeightSource(name.replace("{member}", str(member)), parameter, member, rows, is_transposed, order)


def _full_name(prefix: str, name: str, layer_idx: int) -> str:
    return name.replace("{layer}", str(layer_idx)) if "{layer}" in name else f"{prefix}{name}"


def _look_up(table: dict[str, str | Tensors], part: str) -> tuple[Tensors, str]:
    """The entry of a parameter, and what its names still lack."""
    stem, dot, kind = part.rpartition(".")
    found, ending = (table[part], "") if part in table else (table[stem], f"{dot}{kind}")
    return _as_tensors(found), ending


def _as_tensors(entry: str | Tensors) -> Tensors:
    return tensors(entry) if isinstance(entry, str) else entry


def _places(
    spec: DecoderSpec, layer_idx: int, part: str, shape: tuple[int, ...], num_names: int
) -> list[tuple[int, int] | None]:
    """Which rows of a parameter each of its tensors fills: query, key and value as wide as they are, others alike."""
    if num_names == 1:
        return [None]
    layer = spec.layers[layer_idx]
    heights = [layer.q_width, layer.k_width, layer.v_width]
    if not part.startswith("qkv."):
        heights = [shape[0] // num_names] * num_names
    return [(stop - height, stop) for height, stop in zip(heights, itertools.accumulate(heights), strict=True)]
