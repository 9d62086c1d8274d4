"""Attention of query heads that share key/value heads, in plain PyTorch: scores, what is added to them, and weights."""

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.kernels.quantization import dequantize
from kvcache.storage import LayerCache


def gather_kv(numbers: Tensor, scale: Tensor | None, slots: Tensor, dtype: torch.dtype) -> Tensor:
    """Read slots of the cache.

    Args:
        numbers: [num_blocks, block_size, num_kv_heads, head_dim].
        scale: [num_blocks, block_size, num_kv_heads] float16, where the numbers are 8 bits wide.
        slots: [num_seqs, seq_len] int64.
        dtype: what 8-bit numbers become; others stay as they are.

    Returns:
        [num_seqs, num_kv_heads, seq_len, head_dim], a strided view of a [num_seqs, seq_len, ...] copy.
    """
    rows = numbers.flatten(0, 1).index_select(0, slots.flatten())
    if scale is not None:
        rows = dequantize(rows, scale.flatten(0, 1).index_select(0, slots.flatten()), dtype)
    return rows.view(*slots.shape, *rows.shape[1:]).transpose(1, 2)


def causal_mask(positions: Tensor, keys: Tensor, sliding_window: int | None) -> Tensor:
    """True where the key's position is at most the query's, and inside the window.

    Args:
        positions: [..., query_len] int64: of the queries.
        keys: [num_keys] int64: positions of the keys.
        sliding_window: see paged_attention.

    Returns:
        [..., query_len, num_keys] bool.
    """
    queries = positions.unsqueeze(-1)
    mask = keys <= queries
    return mask if sliding_window is None else mask & (keys > queries - sliding_window)


def alibi_bias(slopes: Tensor, positions: Tensor, keys: Tensor) -> Tensor:
    """Slope * (key's position - query's position) (Press et al. 2021, section 3).

    Args:
        slopes: [num_q_heads] float32.
        positions: [num_seqs, query_len] int64: of the queries.
        keys: [num_keys] int64: positions of the keys.

    Returns:
        [num_seqs, num_q_heads, query_len, num_keys] float32.
    """
    return slopes[:, None, None] * (keys - positions.unsqueeze(-1)).unsqueeze(1)


def grouped_attention(
    q: Tensor,
    cache: LayerCache,
    slots: Tensor,
    mask: Tensor,
    *,
    softmax_scale: float,
    softcap: float | None = None,
    bias: Tensor | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """softmax(q k^T * softmax_scale) v (Vaswani et al. 2017, eq. 1) for sequences that compute equally many tokens.

    The query heads of a group are laid side by side as further rows of one query matrix, so that a KV head is read
    once for all of them and never repeated. Over an 8-bit cache everything is computed in float32 or wider.

    Args:
        q: [num_seqs, query_len, num_q_heads, k_head_dim].
        cache: of the layer.
        slots: [num_seqs, num_keys] int64: where each key of a sequence lies; any slot of its own where it has none.
        mask: [num_seqs, query_len, num_keys] bool: True where the query may look.
        softmax_scale: multiplies every score.
        softcap: scaled scores become softcap * tanh(score / softcap).
        bias: [num_seqs, num_q_heads, query_len, num_keys], added to the scores after that.
        sinks: [num_q_heads]: one more score in each softmax, that no value belongs to.

    Returns:
        [num_seqs, query_len, num_q_heads, v_head_dim].
    """
    query_len, num_q_heads = q.shape[1:3]
    wide = torch.promote_types(q.dtype, torch.float32)
    k, v = gather_kv(cache.k, cache.k_scale, slots, wide), gather_kv(cache.v, cache.v_scale, slots, wide)
    num_kv_heads = k.shape[1]
    num_q_per_kv = num_q_heads // num_kv_heads
    grouped = q.to(k.dtype).unflatten(2, (num_kv_heads, num_q_per_kv)).permute(0, 2, 3, 1, 4).flatten(2, 3)
    rows = mask.unsqueeze(1).expand(-1, num_q_per_kv, -1, -1).flatten(1, 2).unsqueeze(1)
    if softcap is None and bias is None and sinks is None:
        out = F.scaled_dot_product_attention(grouped, k, v, attn_mask=rows, scale=softmax_scale)
    else:
        scores = _scores(grouped, k, softmax_scale, softcap)
        if bias is not None:
            scores = scores + bias.unflatten(1, (num_kv_heads, num_q_per_kv)).flatten(2, 3)
        scores = scores.masked_fill(~rows, -torch.inf)
        row_sinks = None if sinks is None else sinks.view(num_kv_heads, -1).repeat_interleave(query_len, 1)
        out = _weights(scores, row_sinks).to(v.dtype) @ v
    attended: Tensor = out.unflatten(2, (num_q_per_kv, query_len)).permute(0, 3, 1, 2, 4).flatten(2, 3)
    return attended.to(q.dtype)


def attention_weights(
    q: Tensor,
    k: Tensor,
    mask: Tensor,
    *,
    softmax_scale: float,
    softcap: float | None = None,
    bias: Tensor | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """softmax(q k^T * softmax_scale) of one sequence (Vaswani et al. 2017, eq. 1), for those who want to see it.

    Args:
        q: [query_len, num_q_heads, k_head_dim].
        k: [num_keys, num_kv_heads, k_head_dim].
        mask: [query_len, num_keys] bool: True where the query may look.
        softmax_scale: multiplies every score.
        softcap: see grouped_attention.
        bias: [num_q_heads, query_len, num_keys], added to the scores after that.
        sinks: see grouped_attention; what they take is missing in the sum of a row.

    Returns:
        [num_q_heads, query_len, num_keys], in float32 or wider.
    """
    num_q_heads, num_kv_heads = q.shape[1], k.shape[1]
    keys = k.repeat_interleave(num_q_heads // num_kv_heads, 1)
    scores = _scores(q.transpose(0, 1), keys.transpose(0, 1), softmax_scale, softcap)
    if bias is not None:
        scores = scores + bias
    scores = scores.masked_fill(~mask, -torch.inf)
    row_sinks = None if sinks is None else sinks.unsqueeze(1).expand(-1, q.shape[0])
    return _weights(scores.unsqueeze(0), row_sinks).squeeze(0)


def _scores(q: Tensor, k: Tensor, softmax_scale: float, softcap: float | None) -> Tensor:
    """[..., rows, num_keys] of q [..., rows, head_dim] and k [..., num_keys, head_dim], in float32 or wider."""
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = q.to(wide) @ k.to(wide).transpose(-1, -2) * softmax_scale
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)


def _weights(scores: Tensor, sinks: Tensor | None) -> Tensor:
    """The softmax of every row, with the row's sink [num_heads, rows] as a further score where there are any."""
    if sinks is None:
        return scores.softmax(-1)
    column = sinks.to(scores.dtype).expand(scores.shape[0], -1, -1).unsqueeze(-1)
    return torch.cat((scores, column), -1).softmax(-1)[..., :-1]
