"""How families interleave the rows of projections that they keep as one tensor. No torch."""

import functools

from engine.models.spec import DecoderSpec, MoESpec
from engine.models.tensor_names import RowOrder


def grouped_qkv(spec: DecoderSpec, layer_idx: int) -> RowOrder:
    """Each KV head behind the query heads of its group: with 2 query heads a group q0 q1 k0 v0 q2 q3 k1 v1 ...

    Where every query head has its own KV head that is q0 k0 v0 q1 k1 v1 ... (GPT-NeoX, BLOOM, Falcon).
    """
    layer = spec.layers[layer_idx]
    return _grouped_qkv(layer.num_q_heads, layer.num_kv_heads, layer.k_head_dim)


@functools.lru_cache(maxsize=8)
def _grouped_qkv(num_q_heads: int, num_kv_heads: int, head_dim: int) -> RowOrder:
    num_q_per_kv = num_q_heads // num_kv_heads
    width = num_q_per_kv + 2
    q = [group * width + i for group in range(num_kv_heads) for i in range(num_q_per_kv)]
    k = [group * width + num_q_per_kv for group in range(num_kv_heads)]
    v = [head + 1 for head in k]
    rows = tuple(head * head_dim + i for head in [*q, *k, *v] for i in range(head_dim))
    return RowOrder(len(rows), rows)


def blocked_qvk(spec: DecoderSpec, layer_idx: int) -> RowOrder:
    """Four blocks of queries, values and keys, each with a quarter of the heads (CodeGen)."""
    width = spec.layers[layer_idx].q_width
    quarter = width // 4
    q = [3 * quarter * block + i for block in range(4) for i in range(quarter)]
    rows = (*q, *(row + 2 * quarter for row in q), *(row + quarter for row in q))
    return RowOrder(3 * width, rows)


def gate_and_up_in_turns(spec: DecoderSpec, layer_idx: int) -> RowOrder:
    """The experts' gate and up rows alternate: g0 u0 g1 u1 ... (gpt-oss)."""
    mlp = spec.layers[layer_idx].mlp
    if not isinstance(mlp, MoESpec):
        raise TypeError(f"layer {layer_idx} has no experts")
    num_rows = mlp.expert.up_width
    return RowOrder(num_rows, (*range(0, num_rows, 2), *range(1, num_rows, 2)))


def padded_to_64(spec: DecoderSpec, layer_idx: int) -> RowOrder:
    """A row a token, and rows of no token up to a multiple of 64 (nanochat)."""
    return RowOrder(-(-spec.vocab_size // 64) * 64, tuple(range(spec.vocab_size)))
