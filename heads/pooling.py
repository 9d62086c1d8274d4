"""More or fewer key/value heads in one layer."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from engine.models.spec import LayerSpec
from heads.alignment import align_groups
from heads.weights import HeadWeights

Method = Literal["mean", "first", "aligned"]
"""How a group of heads becomes one: their mean (Ainslie et al. 2023, section 2.1), the first of them, or the mean after
each was rotated onto the others."""


def repeat_heads(weights: HeadWeights, times: int) -> HeadWeights:
    """Each key/value head `times` times, one after the other: what attends to what stays as it is, exactly."""
    return _map_kv_heads(weights, lambda heads: heads.repeat_interleave(times, 0))


def pool_heads(layer: LayerSpec, weights: HeadWeights, num_kv_heads: int, method: Method) -> HeadWeights:
    """Neighbouring key/value heads joined to `num_kv_heads`, which divides their number."""
    if method == "first":
        group_size = weights.k.shape[0] // num_kv_heads
        return _map_kv_heads(weights, lambda heads: heads[::group_size])
    if method == "aligned":
        weights = align_groups(layer, weights, num_kv_heads)
    return _map_kv_heads(weights, lambda heads: _mean(heads, num_kv_heads))


def _mean(heads: Tensor, num_groups: int) -> Tensor:
    wide = heads.to(torch.promote_types(heads.dtype, torch.float32))
    mean: Tensor = wide.unflatten(0, (num_groups, -1)).mean(1)
    return mean.to(heads.dtype)


def _map_kv_heads(weights: HeadWeights, change: Callable[[Tensor], Tensor]) -> HeadWeights:
    by_kv_head = {name: change(heads) for name, heads in weights.by_kv_head.items()}
    return weights._replace(k=change(weights.k), v=change(weights.v), by_kv_head=by_kv_head)
