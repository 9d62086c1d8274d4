"""Every kernel in plain PyTorch: what runs where nothing faster does, and what faster kernels are tested against.

Half-precision inputs are widened to float32 inside a kernel wherever a sum is taken, and rounded once at the end.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.kernels.int8 import quantize_weight
from engine.kernels.int8_linear import gather_rows_int8, grouped_linear_int8, linear_int8, pack_int8
from engine.kernels.quantization import dequantize, quantize
from engine.models.spec import Activation, DecoderSpec
from kvcache.storage import LayerCache

__all__ = [
    "activate",
    "activate_and_multiply",
    "apply_rope",
    "compile_layers",
    "gather_rows",
    "gather_rows_int8",
    "grouped_linear",
    "grouped_linear_int8",
    "has_graphable_experts",
    "layer_norm",
    "linear",
    "linear_int8",
    "name",
    "pack",
    "pack_int8",
    "paged_attention",
    "quantize_weight",
    "rms_norm",
    "store_kv",
]

name = "reference"
has_graphable_experts = False
"""The module itself is a `Kernels`."""

SWIGLU_LIMIT, SWIGLU_ALPHA = 7.0, 1.702
"""Constants of Activation.CLAMPED_SWIGLU."""


def pack(weight: Tensor) -> None:
    """Bring a weight into the order that `linear` and `gather_rows` read, in place; once only. It is in it already.

    Args:
        weight: [out, in], or [num_groups, out, in].
    """


def gather_rows(weight: Tensor, row_ids: Tensor) -> Tensor:
    """Rows of a weight that `pack` had.

    Args:
        weight: [out, in].
        row_ids: [num_rows] int64.

    Returns:
        [num_rows, in].
    """
    return F.embedding(row_ids, weight)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
    """X W^T, plus what is given.

    Args:
        x: [num_tokens, in].
        weight: [out, in].
        bias: [out].
        residual: [num_tokens, out].

    Returns:
        [num_tokens, out].
    """
    product = F.linear(x, weight, bias)
    return product if residual is None else residual + product


def grouped_linear(x: Tensor, weight: Tensor, bias: Tensor | None, counts: Tensor) -> Tensor:
    """Rows of x in groups, each times the weight of its group.

    Args:
        x: [num_rows, in], sorted by group.
        weight: [num_groups, out, in].
        bias: [num_groups, out].
        counts: [num_groups] int64: rows of each group; they sum to num_rows.

    Returns:
        [num_rows, out].
    """
    out = x.new_empty(x.shape[0], weight.shape[1])
    start = 0
    for group, count in enumerate(counts.tolist()):
        stop = start + count
        if count:
            out[start:stop] = F.linear(x[start:stop], weight[group], None if bias is None else bias[group])
        start = stop
    return out


def rms_norm(x: Tensor, weight: Tensor | None, eps: float, *, weight_offset: float = 0.0) -> Tensor:
    """X / sqrt(mean(x^2) + eps) * (weight + weight_offset) over the last dimension (Zhang and Sennrich 2019, eq. 4).

    Args:
        x: [num_tokens, ..., width].
        weight: [width], or [num_heads, width] for heads that have one each; None: 1.
        eps: added to the mean square.
        weight_offset: for checkpoints that keep the weight's distance from it.
    """
    width = (x.shape[-1],)
    if weight is None or (weight.dim() == 1 and not weight_offset):
        return F.rms_norm(x, width, weight, eps)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (F.rms_norm(wide, width, None, eps) * (weight.to(wide.dtype) + weight_offset)).to(x.dtype)


def layer_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, *, weight_offset: float = 0.0
) -> Tensor:
    """(x - mean) / sqrt(var + eps) * (weight + weight_offset) + bias over the last dimension (Ba et al. 2016, eq. 3).

    Args:
        x: [num_tokens, ..., width].
        weight: [width], or [num_heads, width] for heads that have one each; None: 1.
        bias: as weight; None: 0.
        eps: added to the variance.
        weight_offset: for checkpoints that keep the weight's distance from it.
    """
    width = (x.shape[-1],)
    if weight is None or (weight.dim() == 1 and not weight_offset):
        return F.layer_norm(x, width, weight, bias, eps)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    normed = F.layer_norm(wide, width, None, None, eps) * (weight.to(wide.dtype) + weight_offset)
    return (normed if bias is None else normed + bias).to(x.dtype)


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor, *, is_interleaved: bool = False) -> None:
    """Rotate pairs of every head's dimensions, in place (Su et al. 2021, eq. 34).

    Args:
        x: [num_tokens, num_heads, head_dim]; dimensions past rotary_dim stay as they are.
        cos: [num_tokens, rotary_dim / 2] float32, or x's dtype where that is wider.
        sin: [num_tokens, rotary_dim / 2], as cos.
        is_interleaved: pairs are (x[2i], x[2i + 1]); else (x[i], x[i + rotary_dim / 2]).
    """
    half = cos.shape[-1]
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    pairs = x[..., : 2 * half].to(cos.dtype)
    first, second = pairs.unflatten(-1, (half, 2)).unbind(-1) if is_interleaved else pairs.chunk(2, dim=-1)
    turned = first * cos - second * sin, second * cos + first * sin
    x[..., : 2 * half] = torch.stack(turned, -1).flatten(-2) if is_interleaved else torch.cat(turned, -1)


def activate(x: Tensor, activation: Activation) -> Tensor:
    """The nonlinearity, element by element."""
    match activation:
        case Activation.SILU:
            return F.silu(x)
        case Activation.GELU:
            return F.gelu(x)
        case Activation.GELU_TANH:
            return F.gelu(x, approximate="tanh")
        case Activation.RELU:
            return F.relu(x)
        case Activation.RELU_SQUARED:
            return F.relu(x).square_()
        case Activation.CLAMPED_SWIGLU:
            raise ValueError(f"{activation} is gated only")


def activate_and_multiply(gate_up: Tensor, activation: Activation) -> Tensor:
    """activation(gate) * up (Shazeer 2020, eq. 6).

    Args:
        gate_up: [num_tokens, 2 * width]: gate, then up.
        activation: applied to the gate.

    Returns:
        [num_tokens, width].
    """
    gate, up = gate_up.chunk(2, dim=-1)
    if activation is Activation.CLAMPED_SWIGLU:
        gate, up = gate.clamp(max=SWIGLU_LIMIT), up.clamp(-SWIGLU_LIMIT, SWIGLU_LIMIT)
        return (up + 1) * (gate * torch.sigmoid(SWIGLU_ALPHA * gate))
    return activate(gate, activation).mul_(up)


def store_kv(k: Tensor, v: Tensor, cache: LayerCache, slot_mapping: Tensor) -> None:
    """Write this step's keys and values into their slots, as `quantize` makes them where the cache has scales.

    Args:
        k: [num_tokens, num_kv_heads, k_head_dim].
        v: [num_tokens, num_kv_heads, v_head_dim].
        cache: of the layer, changed in place.
        slot_mapping: [num_tokens] int64, block_id * block_size + offset.
    """
    for rows, numbers, scale in ((k, cache.k, cache.k_scale), (v, cache.v, cache.v_scale)):
        if scale is None:
            numbers.flatten(0, 1).index_copy_(0, slot_mapping, rows)
        else:
            quantized, scales = quantize(rows, numbers.dtype)
            # PyTorch copies bytes where it does not copy e4m3 numbers.
            numbers.view(torch.int8).flatten(0, 1).index_copy_(0, slot_mapping, quantized.view(torch.int8))
            scale.flatten(0, 1).index_copy_(0, slot_mapping, scales)


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


def paged_attention(
    q: Tensor,
    cache: LayerCache,
    block_tables: Tensor,
    *,
    cu_seqlens_q: Tensor,
    seq_lens: Tensor,
    softmax_scale: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
    alibi_slopes: Tensor | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Causal attention of a ragged batch, one sequence after the other (Vaswani et al. 2017, eq. 1).

    The reference backend plans a step and batches its sequences through `grouped_attention`; this is the plain form
    that other kernels are tested against.

    Args:
        q: [num_tokens, num_q_heads, k_head_dim]; the last tokens of each sequence, sequence after sequence.
        cache: of the layer, this step's keys and values included.
        block_tables: [num_seqs, max_blocks] int64.
        cu_seqlens_q: [num_seqs + 1] int64: sequence i has tokens [cu_seqlens_q[i], cu_seqlens_q[i + 1]).
        seq_lens: [num_seqs] int64: tokens of each sequence up to its last one in q.
        softmax_scale: multiplies every score.
        sliding_window: each query sees itself and this many keys less one before it; None: all.
        softcap: see grouped_attention.
        alibi_slopes: see alibi_bias.
        sinks: see grouped_attention.

    Returns:
        [num_tokens, num_q_heads, v_head_dim].
    """
    block_size = cache.k.shape[1]
    out = q.new_empty(*q.shape[:2], cache.v.shape[-1])
    starts = cu_seqlens_q.tolist()
    for seq, seq_len in enumerate(seq_lens.tolist()):
        start, stop = starts[seq], starts[seq + 1]
        place = torch.arange(seq_len, device=q.device)
        slots = block_tables[seq, place // block_size] * block_size + place % block_size
        positions = place[seq_len - (stop - start) :].unsqueeze(0)
        out[start:stop] = grouped_attention(
            q[start:stop].unsqueeze(0),
            cache,
            slots.unsqueeze(0),
            causal_mask(positions, place, sliding_window),
            softmax_scale=softmax_scale,
            softcap=softcap,
            bias=None if alibi_slopes is None else alibi_bias(alibi_slopes, positions, place),
            sinks=sinks,
        )[0]
    return out


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


def _scores(q: Tensor, k: Tensor, softmax_scale: float, softcap: float | None) -> Tensor:
    """[num_seqs, num_kv_heads, rows, num_keys], in float32 or wider."""
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = q.to(wide) @ k.to(wide).transpose(-1, -2) * softmax_scale
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)


def _weights(scores: Tensor, sinks: Tensor | None) -> Tensor:
    """The softmax of every row, with the row's sink [num_kv_heads, rows] as a further score where there are any."""
    if sinks is None:
        return scores.softmax(-1)
    column = sinks.to(scores.dtype).expand(scores.shape[0], -1, -1).unsqueeze(-1)
    return torch.cat((scores, column), -1).softmax(-1)[..., :-1]


def compile_layers(spec: DecoderSpec, parameters: Mapping[str, Tensor]) -> None:
    """None: the reference runs layer by layer."""
