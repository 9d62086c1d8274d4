"""Launches norms, activations, rope and the cache write."""

from typing import Any

import torch
from torch import Tensor

from engine.kernels.reference import SWIGLU_ALPHA, SWIGLU_LIMIT
from engine.kernels.triton.jit.elementwise import activation_kernel, norm_kernel, rope_kernel, store_kernel
from engine.models.spec import Activation
from kvcache.storage import LayerCache

TILE_NUMBERS = 2048
"""Numbers that a program takes at once: enough for 4 warps to load 16 bytes a thread."""

MAX_WARPS = 16


def rms_norm(x: Tensor, weight: Tensor | None, eps: float, *, weight_offset: float = 0.0) -> Tensor:
    """See reference.rms_norm."""
    return _norm(x, weight, None, eps, weight_offset, is_centered=False)


def layer_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, *, weight_offset: float = 0.0
) -> Tensor:
    """See reference.layer_norm."""
    return _norm(x, weight, bias, eps, weight_offset, is_centered=True)


def _norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, weight_offset: float, *, is_centered: bool
) -> Tensor:
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    # [num_tokens, num_heads, width]; heads keep strides of their own, as they may be a view of the projection.
    rows = x if x.dim() == 3 else x.reshape(-1, 1, x.shape[-1])
    rows = rows if rows.stride(2) == 1 else rows.contiguous()
    num_tokens, num_heads, width = rows.shape
    given = weight if weight is not None else bias
    pad = _power_of_two(width)
    block_rows = max(1, TILE_NUMBERS // pad)
    num_rows = num_tokens * num_heads
    if num_rows:
        norm_kernel[(_tiles(num_rows, block_rows),)](
            *(out, rows, _contiguous(weight), _contiguous(bias), eps, weight_offset, num_rows),
            *rows.stride()[:2],
            width if given is not None and given.dim() == 2 else 0,
            NUM_HEADS=num_heads,
            WIDTH=width,
            PAD=pad,
            BLOCK_ROWS=block_rows,
            IS_CENTERED=is_centered,
            num_warps=_warps(pad * block_rows),
        )
    return out


def activate(x: Tensor, activation: Activation) -> Tensor:
    """See reference.activate.

    Raises:
        ValueError: the activation is gated only.
    """
    if activation is Activation.CLAMPED_SWIGLU:
        raise ValueError(f"{activation} is gated only")
    x = x.contiguous()
    return _activated(x.view(-1, x.shape[-1]), None, x.shape[-1], activation).view(x.shape)


def activate_and_multiply(gate_up: Tensor, activation: Activation) -> Tensor:
    """See reference.activate_and_multiply."""
    gate_up = gate_up if gate_up.stride(1) == 1 else gate_up.contiguous()
    width = gate_up.shape[1] // 2
    return _activated(gate_up, gate_up[:, width:], width, activation)


def _activated(gate: Tensor, up: Tensor | None, width: int, activation: Activation) -> Tensor:
    num_rows = gate.shape[0]
    out = torch.empty(num_rows, width, dtype=gate.dtype, device=gate.device)
    block = min(TILE_NUMBERS // 2, _power_of_two(width))
    if num_rows:
        activation_kernel[num_rows, _tiles(width, block)](
            *(out, gate, up, width, gate.stride(0)),
            ACTIVATION=activation.value,
            LIMIT=SWIGLU_LIMIT,
            ALPHA=SWIGLU_ALPHA,
            BLOCK=block,
            num_warps=_warps(block),
        )
    return out


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor, *, is_interleaved: bool = False) -> None:
    """See reference.apply_rope.

    Raises:
        ValueError: a stride or a shape does not fit.
    """
    (num_tokens, num_heads, head_dim), half = x.shape, cos.shape[1]
    if x.stride(2) != 1 or 2 * half > head_dim:
        raise ValueError(
            f"x: expected dense heads of at least {2 * half} dimensions, got {list(x.shape)} with strides {x.stride()}"
        )
    half_pad = _power_of_two(half)
    block_heads = max(1, min(_power_of_two(num_heads), TILE_NUMBERS // (2 * half_pad)))
    if num_tokens:
        rope_kernel[num_tokens, _tiles(num_heads, block_heads)](
            *(x, cos.contiguous(), sin.contiguous(), num_heads, x.stride(0), x.stride(1)),
            HALF=half,
            HALF_PAD=half_pad,
            BLOCK_HEADS=block_heads,
            IS_INTERLEAVED=is_interleaved,
            num_warps=_warps(2 * half_pad * block_heads),
        )


def store_kv(k: Tensor, v: Tensor, cache: LayerCache, slot_mapping: Tensor) -> None:
    """See reference.store_kv.

    Raises:
        ValueError: a cache or the mapping does not fit.
    """
    for name, rows, numbers in (("k", k, cache.k), ("v", v, cache.v)):
        if not numbers.is_contiguous() or numbers.shape[2:] != rows.shape[1:] or numbers.dtype is not rows.dtype:
            expected = f"contiguous {rows.dtype} [num_blocks, block_size, {rows.shape[1]}, {rows.shape[2]}]"
            raise ValueError(f"cache.{name}: expected {expected}, got {numbers.dtype} {list(numbers.shape)}")
    if slot_mapping.shape != k.shape[:1] or not slot_mapping.is_contiguous():
        raise ValueError(f"slot_mapping: expected contiguous [{k.shape[0]}], got {list(slot_mapping.shape)}")
    k, v = (rows if _has_dense_rows(rows) else rows.contiguous() for rows in (k, v))
    widths: dict[str, Any] = {"K_WIDTH": k.shape[1] * k.shape[2], "V_WIDTH": v.shape[1] * v.shape[2]}
    k_pad, v_pad = _power_of_two(widths["K_WIDTH"]), _power_of_two(widths["V_WIDTH"])
    if k.shape[0]:
        store_kernel[(k.shape[0],)](
            *(k, v, cache.k, cache.v, slot_mapping, k.stride(0), v.stride(0)),
            **widths,
            K_PAD=k_pad,
            V_PAD=v_pad,
            num_warps=_warps(k_pad),
        )


def _has_dense_rows(x: Tensor) -> bool:
    """Whether the heads of a token [num_tokens, num_heads, head_dim] lie side by side."""
    return x.stride(2) == 1 and x.stride(1) == x.shape[2]


def _contiguous(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


def _power_of_two(width: int) -> int:
    return 1 << max(0, width - 1).bit_length()


def _tiles(length: int, block: int) -> int:
    return -(-length // block)


def _warps(numbers: int) -> int:
    """Warps for a tile of so many numbers: at most 16 a thread, where there are not too many of them."""
    return max(1, min(MAX_WARPS, numbers // (32 * 16)))
