"""Takes query heads out of a checkpoint, and the key/value heads that nobody reads any more with them."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch

from engine.checkpoint import Checkpoint
from engine.models.registry import load_spec
from engine.models.spec import DecoderSpec, LayerSpec, QKNormScope
from heads.errors import HeadsError
from heads.rewriting import Rewrite, rewrite_checkpoint
from heads.weights import HeadWeights

Head = tuple[int, int]
"""Layer and query head."""

FIELD_NAMES = (("num_attention_heads", "num_key_value_heads"), ("num_query_heads", "num_kv_heads"))
"""What families call a layer's head counts that may be lists (engine/models/layer_fields.py; OpenELM)."""


class Unit(NamedTuple):
    """Query heads that can only go together: all that read one key/value head.

    Where a layer has only one key/value head, each of its query heads is a unit, and the key/value head stays.
    """

    layer: int
    q_heads: tuple[int, ...]


def find_units(spec: DecoderSpec) -> list[Unit]:
    """All units of a model, layer by layer."""
    return [unit for layer_idx, layer in enumerate(spec.layers) for unit in _units_of(layer_idx, layer)]


def _units_of(layer_idx: int, layer: LayerSpec) -> list[Unit]:
    size = 1 if layer.num_kv_heads == 1 else layer.num_q_heads // layer.num_kv_heads
    return [Unit(layer_idx, tuple(range(first, first + size))) for first in range(0, layer.num_q_heads, size)]


def choose_heads(spec: DecoderSpec, importance: Sequence[Sequence[float]], fraction: float) -> list[Head]:
    """The least important units, as many as make up at most `fraction` of the query heads; each layer keeps one unit.

    Args:
        spec: the model.
        importance: of each layer's query heads, comparable over layers.
        fraction: of all query heads, more than 0 and less than 1.

    Raises:
        HeadsError: the fraction is out of range, or so small that no unit fits in.
    """
    if not 0 < fraction < 1:
        raise HeadsError(f"the fraction must be more than 0 and less than 1, got {fraction}")
    left = math.floor(fraction * sum(layer.num_q_heads for layer in spec.layers) + 1e-9)
    num_units = [len(_units_of(index, layer)) for index, layer in enumerate(spec.layers)]
    chosen: list[Head] = []
    for unit in sorted(find_units(spec), key=lambda unit: _mean_importance(unit, importance)):
        if num_units[unit.layer] > 1 and len(unit.q_heads) <= left:
            num_units[unit.layer] -= 1
            left -= len(unit.q_heads)
            chosen.extend((unit.layer, head) for head in unit.q_heads)
    if not chosen:
        raise HeadsError(
            f"a fraction of {fraction} takes out nothing: query heads that share a key/value head go together, and every"
            " layer keeps one such group; choose a larger fraction"
        )
    return sorted(chosen)


def _mean_importance(unit: Unit, importance: Sequence[Sequence[float]]) -> float:
    return sum(importance[unit.layer][head] for head in unit.q_heads) / len(unit.q_heads)


def check_heads(spec: DecoderSpec, heads: Sequence[Head]) -> None:
    """See that `heads` can be taken out of the model.

    Raises:
        HeadsError: one is not there, a unit is not whole, or a layer would be left with none.
    """
    chosen = set(heads)
    for layer_idx, head in sorted(chosen):
        if not 0 <= layer_idx < spec.num_layers or not 0 <= head < spec.layers[layer_idx].num_q_heads:
            raise HeadsError(f"there is no head {layer_idx}.{head}: {_range_of(spec, layer_idx)}")
    for unit in find_units(spec):
        there = [(unit.layer, head) in chosen for head in unit.q_heads]
        if any(there) and not all(there):
            together = ",".join(f"{unit.layer}.{head}" for head in unit.q_heads)
            raise HeadsError(f"heads that share a key/value head can only go together: {together}")
    for layer_idx, layer in enumerate(spec.layers):
        if all((layer_idx, head) in chosen for head in range(layer.num_q_heads)):
            raise HeadsError(f"layer {layer_idx} would have no heads left: keep some of its {layer.num_q_heads}")


def _range_of(spec: DecoderSpec, layer_idx: int) -> str:
    if not 0 <= layer_idx < spec.num_layers:
        return f"layers go from 0 to {spec.num_layers - 1}"
    return f"the query heads of layer {layer_idx} go from 0 to {spec.layers[layer_idx].num_q_heads - 1}"


def remove_heads(source: Path, destination: Path, heads: Sequence[Head]) -> DecoderSpec:
    """Write the checkpoint in `source` without `heads`, as the folder `destination`; the spec of what is there then.

    The result computes what the model computes where those heads say nothing. Its config.json has head counts by layer,
    which headcount reads; transformers reads it only where all layers come out alike.

    Raises:
        HeadsError: those heads cannot be taken out, or the family cannot say so.
        EngineError, CheckpointError: see rewrite_checkpoint.
    """
    specs: list[DecoderSpec] = []

    def plan(checkpoint: Checkpoint) -> Rewrite:
        check_heads(checkpoint.spec, heads)
        rewrite = _plan(checkpoint, heads)
        specs.append(rewrite.spec)
        return rewrite

    rewrite_checkpoint(source, destination, plan)
    return specs[0]


def _plan(checkpoint: Checkpoint, heads: Sequence[Head]) -> Rewrite:
    kept = [
        [head for head in range(layer.num_q_heads) if (layer_idx, head) not in set(heads)]
        for layer_idx, layer in enumerate(checkpoint.spec.layers)
    ]
    wanted = _without(checkpoint.spec, kept)
    config = with_head_counts(checkpoint, wanted)

    def change(layer_idx: int, weights: HeadWeights) -> HeadWeights:
        q_heads = torch.tensor(kept[layer_idx])
        kv_heads = (q_heads // weights.num_q_per_kv).unique()
        return HeadWeights(
            q=weights.q[q_heads],
            k=weights.k[kv_heads],
            v=weights.v[kv_heads],
            o=weights.o[:, q_heads],
            by_q_head={name: tensor[q_heads] for name, tensor in weights.by_q_head.items()},
            by_kv_head={name: tensor[kv_heads] for name, tensor in weights.by_kv_head.items()},
        )

    return Rewrite(config, wanted, change)


def _without(spec: DecoderSpec, kept: list[list[int]]) -> DecoderSpec:
    layers = []
    for layer, heads in zip(spec.layers, kept, strict=True):
        if len(heads) < layer.num_q_heads and layer.qk_norm and layer.qk_norm.scope is QKNormScope.WIDTH:
            raise HeadsError(
                f"{spec.architecture} normalises all heads of a layer together: without some, others change"
            )
        num_kv_heads = len({head * layer.num_kv_heads // layer.num_q_heads for head in heads})
        layers.append(msgspec.structs.replace(layer, num_q_heads=len(heads), num_kv_heads=num_kv_heads))
    return msgspec.structs.replace(spec, layers=tuple(layers))


def with_head_counts(checkpoint: Checkpoint, wanted: DecoderSpec) -> dict[str, Any]:
    """The config.json of the model with the head counts of `wanted`.

    Raises:
        HeadsError: the family's config.json cannot say so.
    """
    q_heads = [layer.num_q_heads for layer in wanted.layers]
    kv_heads = [layer.num_kv_heads for layer in wanted.layers]
    for names in FIELD_NAMES:
        if names[0] in checkpoint.config:
            counts = dict(zip(names, map(_shortest, (q_heads, kv_heads)), strict=True))
            config = {**checkpoint.config, **counts, "head_dim": wanted.layers[0].k_head_dim}
            if load_spec(config) == wanted:
                return config
    raise HeadsError(f"config.json of {wanted.architecture} cannot state head counts that differ from layer to layer")


def _shortest(counts: list[int]) -> list[int] | int:
    """One number where all layers have the same."""
    return counts[0] if len(set(counts)) == 1 else counts
