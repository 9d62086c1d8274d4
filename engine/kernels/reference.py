"""Every kernel in plain PyTorch: what runs where nothing faster does, and what faster kernels are tested against.

Half-precision inputs are widened to float32 inside a kernel wherever a sum is taken, and rounded once at the end.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.kernels.base import HeadNorm, KVTarget, Rotation
from engine.kernels.int8 import quantize_weight
from engine.kernels.int8_linear import gather_rows_int8, grouped_linear_int8, linear_int8, pack_int8
from engine.kernels.quantization import quantize
from engine.kernels.reference_attention import alibi_bias, causal_mask, grouped_attention
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
    "rope_and_store",
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


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, residual: Tensor | None = None, *, is_wide: bool = False
) -> Tensor:
    """X W^T, plus what is given.

    Args:
        x: [num_tokens, in].
        weight: [out, in].
        bias: [out].
        residual: [num_tokens, out].
        is_wide: whether the result is float32 at least.

    Returns:
        [num_tokens, out].
    """
    product = F.linear(x, weight, bias)
    total = product if residual is None else residual + product
    return total.to(torch.promote_types(total.dtype, torch.float32)) if is_wide else total


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
            return x.clamp(min=0).square_()  # autograd refuses to square what relu keeps
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


def rope_and_store(
    q: Tensor, k: Tensor, v: Tensor, target: KVTarget, rotation: Rotation, *, norm: HeadNorm | None = None
) -> Tensor:
    """See base.RopeAndStore: this is what it computes."""
    if norm is not None:
        q = rms_norm(q, norm.q_weight, norm.eps, weight_offset=norm.weight_offset)
        k = rms_norm(k, norm.k_weight, norm.eps, weight_offset=norm.weight_offset)
    for heads in (q, k):
        apply_rope(heads, rotation.cos, rotation.sin, is_interleaved=rotation.is_interleaved)
    store_kv(k, v, *target)
    return q


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


def compile_layers(spec: DecoderSpec, parameters: Mapping[str, Tensor]) -> None:
    """None: the reference runs layer by layer."""
