"""Rotates the key/value heads of a group onto each other, without a change of what the layer computes.

Heads that were trained apart may do the same in different bases, and their mean is then close to nothing. A value head
may be turned by any orthogonal matrix, since the output projection can turn it back. A key head may be turned where its
queries turn with it; rope allows only turns of its own pairs, for those alone commute with it.
"""

import torch
from torch import Tensor

from engine.models.spec import LayerSpec, NormKind, QKNormScope, RopeSpec
from heads.errors import HeadsError
from heads.weights import HeadWeights

NUM_ROUNDS = 10
"""Of turning every head onto the mean of the group (generalised Procrustes analysis, Gower 1975)."""


def align_groups(layer: LayerSpec, weights: HeadWeights, num_groups: int) -> HeadWeights:
    """The same layer in other bases: within each of `num_groups` groups, key/value heads are as alike as turns make them.

    Computed and returned in float32 or wider.

    Raises:
        HeadsError: a rotation would change what the layer computes.
    """
    if problem := _objection(layer):
        raise HeadsError(f"heads cannot be aligned: {problem}; use the method mean")
    wide = torch.promote_types(weights.k.dtype, torch.float32)
    q, k, v, o = (part.to(wide) for part in weights[:4])
    turns = _value_turns(v, num_groups)
    by_query = turns.repeat_interleave(weights.num_q_per_kv, 0)
    v = turns @ v
    o = torch.einsum("chd,hed->che", o, by_query)
    pairs, rest = _dimensions(layer, k.shape[1])
    q, k = _turn_pairs(q, k, pairs, num_groups, weights.num_q_per_kv)
    q, k = _turn_rest(q, k, rest, num_groups, weights.num_q_per_kv)
    return weights._replace(q=q, k=k, v=v, o=o)


def _objection(layer: LayerSpec) -> str:
    if layer.qkv_clip is not None:
        return "keys and values are clipped number by number"
    return "token embeddings are added to the values" if layer.value_embedding else ""


def _value_turns(heads: Tensor, num_groups: int) -> Tensor:
    """An orthogonal matrix a head, [num_heads, head_dim, head_dim], of heads [num_heads, head_dim, num_columns]."""
    grouped = heads.unflatten(0, (num_groups, -1))
    turns = torch.eye(heads.shape[1], dtype=heads.dtype).expand(*grouped.shape[:2], -1, -1)
    reference = grouped[:, :1]
    for _ in range(NUM_ROUNDS):
        # Schönemann 1966: the best turn of x onto y is U V^T of the singular value decomposition of y x^T.
        left, _, right = torch.linalg.svd(reference @ grouped.transpose(-1, -2))
        turns = left @ right
        reference = (turns @ grouped).mean(1, keepdim=True)
    flat: Tensor = turns.flatten(0, 1)
    return flat


def _dimensions(layer: LayerSpec, head_dim: int) -> tuple[Tensor, Tensor]:
    """Which dimensions of a key turn together: rope's pairs [num_pairs, 2], and those that may turn freely [num_free].

    A norm of every head by itself allows turns where it only scales: not where it has weights, nor where it takes off a
    mean; a norm over all heads together has a weight a number as well.
    """
    norm = layer.qk_norm
    if norm and (norm.scope is not QKNormScope.HEAD or norm.norm.has_weight or norm.norm.kind is NormKind.LAYER):
        return torch.empty(0, 2, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
    if layer.rope is None:
        return torch.empty(0, 2, dtype=torch.int64), torch.arange(head_dim)
    return _rope_pairs(layer.rope), torch.arange(layer.rope.rotary_dim, head_dim)


def _rope_pairs(rope: RopeSpec) -> Tensor:
    dims = torch.arange(rope.rotary_dim)
    return dims.view(-1, 2) if rope.is_interleaved else dims.view(2, -1).t()


def _turn_pairs(q: Tensor, k: Tensor, pairs: Tensor, num_groups: int, num_q_per_kv: int) -> tuple[Tensor, Tensor]:
    """Turn every pair of a key as a complex number, and its queries' with it."""
    if not pairs.numel():
        return q, k
    complex_k = torch.complex(k[:, pairs[:, 0]], k[:, pairs[:, 1]]).unflatten(0, (num_groups, -1))
    reference = complex_k[:, :1]
    phases = torch.ones_like(complex_k[..., :1])
    for _ in range(NUM_ROUNDS):
        inner = (complex_k.conj() * reference).sum(-1, keepdim=True)
        phases = torch.where(inner == 0, 1, inner / inner.abs().clamp(min=torch.finfo(k.dtype).tiny))
        reference = (phases * complex_k).mean(1, keepdim=True)
    by_head = phases.flatten(0, 1)
    return _turn_by(q, pairs, by_head.repeat_interleave(num_q_per_kv, 0)), _turn_by(k, pairs, by_head)


def _turn_by(heads: Tensor, pairs: Tensor, phases: Tensor) -> Tensor:
    turned = phases * torch.complex(heads[:, pairs[:, 0]], heads[:, pairs[:, 1]])
    heads = heads.clone()
    heads[:, pairs[:, 0]], heads[:, pairs[:, 1]] = turned.real, turned.imag
    return heads


def _turn_rest(q: Tensor, k: Tensor, rest: Tensor, num_groups: int, num_q_per_kv: int) -> tuple[Tensor, Tensor]:
    """Turn the dimensions that rope leaves alone as freely as values."""
    if not rest.numel():
        return q, k
    turns = _value_turns(k[:, rest], num_groups)
    q, k = q.clone(), k.clone()
    q[:, rest] = turns.repeat_interleave(num_q_per_kv, 0) @ q[:, rest]
    k[:, rest] = turns @ k[:, rest]
    return q, k
