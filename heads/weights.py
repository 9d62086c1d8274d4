"""The attention weights of a layer, head by head: what surgery cuts, copies and joins.

A family may keep queries, keys and values in one tensor or three, in any order, with biases or without, with norms over
a head or over all of them. Here they are the same four arrays for every family.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from engine.models.spec import LayerSpec, QKNormScope

PER_HEAD_PARTS = (
    *("qkv.weight", "qkv.bias", "o.weight", "sinks", "value_embed.weight", "value_gate.weight"),
    *("q_norm.weight", "q_norm.bias", "k_norm.weight", "k_norm.bias"),
)
"""Parameters of a layer that may have one piece a head; see DecoderSpec.parameter_shapes."""


class HeadWeights(NamedTuple):
    """One layer's attention.

    Attributes:
        q: [num_q_heads, k_head_dim, num_columns]; the columns are the hidden size, and one more where there are biases.
        k: [num_kv_heads, k_head_dim, num_columns].
        v: [num_kv_heads, v_head_dim, num_columns].
        o: [hidden_size, num_q_heads, v_head_dim].
        by_q_head: what else has a row a query head, each [num_q_heads, ...].
        by_kv_head: what else has a row a key/value head, each [num_kv_heads, ...].
    """

    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    by_q_head: dict[str, Tensor]
    by_kv_head: dict[str, Tensor]

    @property
    def num_q_per_kv(self) -> int:
        """Query heads that share a key/value head."""
        return self.q.shape[0] // self.k.shape[0]


def split_heads(layer: LayerSpec, parameters: Mapping[str, Tensor]) -> HeadWeights:
    """The heads of a layer.

    Args:
        layer: whose weights they are.
        parameters: its parameters of PER_HEAD_PARTS, by these names.
    """
    columns = parameters["qkv.weight"]
    if layer.has_qkv_bias:
        bias = parameters["qkv.bias"].unsqueeze(1)
        columns = columns.to(torch.promote_types(columns.dtype, bias.dtype))
        columns = torch.cat((columns, bias.to(columns.dtype)), 1)
    q, k, v = columns.split((layer.q_width, layer.k_width, layer.v_width))
    by_q_head = {name: parameters[name].unflatten(0, (layer.num_q_heads, -1)) for name in _q_parts(layer, parameters)}
    by_kv_head = {name: parameters[name].unflatten(0, (layer.num_kv_heads, -1)) for name in _k_parts(layer, parameters)}
    if layer.value_embedding:
        by_kv_head["value_gate.weight"] = parameters["value_gate.weight"]
        by_kv_head["value_embed.weight"] = parameters["value_embed.weight"].t().unflatten(0, (layer.num_kv_heads, -1))
    return HeadWeights(
        q.unflatten(0, (layer.num_q_heads, -1)),
        k.unflatten(0, (layer.num_kv_heads, -1)),
        v.unflatten(0, (layer.num_kv_heads, -1)),
        parameters["o.weight"].unflatten(1, (layer.num_q_heads, -1)),
        by_q_head,
        by_kv_head,
    )


def join_heads(layer: LayerSpec, weights: HeadWeights) -> dict[str, Tensor]:
    """The parameters that `split_heads` makes of, for a layer with the head counts that `weights` have now."""
    columns = torch.cat([heads.flatten(0, 1) for heads in (weights.q, weights.k, weights.v)])
    joined = {name: heads.flatten(0, 1) for name, heads in {**weights.by_q_head, **weights.by_kv_head}.items()}
    if layer.value_embedding:
        joined["value_gate.weight"] = weights.by_kv_head["value_gate.weight"]
        joined["value_embed.weight"] = joined["value_embed.weight"].t()
    if layer.has_qkv_bias:
        joined["qkv.bias"], columns = columns[:, -1], columns[:, :-1]
    return {"qkv.weight": columns, "o.weight": weights.o.flatten(1), **joined}


def _q_parts(layer: LayerSpec, parameters: Mapping[str, Tensor]) -> list[str]:
    return [*(["sinks"] if layer.has_sinks else []), *_norm_parts(layer, parameters, "q_norm.")]


def _k_parts(layer: LayerSpec, parameters: Mapping[str, Tensor]) -> list[str]:
    return _norm_parts(layer, parameters, "k_norm.")


def _norm_parts(layer: LayerSpec, parameters: Mapping[str, Tensor], prefix: str) -> list[str]:
    """Norms of queries or keys that have numbers of their own for every head."""
    if layer.qk_norm is None or layer.qk_norm.scope is QKNormScope.HEAD:
        return []
    return [name for name in parameters if name.startswith(prefix)]
