"""Launches norms, activations and rope."""

import torch
from torch import Tensor

from engine.kernels.reference import SWIGLU_ALPHA, SWIGLU_LIMIT
from engine.kernels.triton.jit.elementwise import activation_kernel, norm_kernel, rope_kernel
from engine.kernels.triton.tiles import TILE_NUMBERS, num_tiles, num_warps, power_of_two
from engine.models.spec import Activation


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
    pad = power_of_two(width)
    block_rows = max(1, TILE_NUMBERS // pad)
    num_rows = num_tokens * num_heads
    if num_rows:
        norm_kernel[(num_tiles(num_rows, block_rows),)](
            *(out, rows, _contiguous(weight), _contiguous(bias), eps, weight_offset, num_rows),
            *rows.stride()[:2],
            width if given is not None and given.dim() == 2 else 0,
            NUM_HEADS=num_heads,
            WIDTH=width,
            PAD=pad,
            BLOCK_ROWS=block_rows,
            IS_CENTERED=is_centered,
            num_warps=num_warps(pad * block_rows),
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
    block = min(TILE_NUMBERS // 2, power_of_two(width))
    if num_rows:
        activation_kernel[num_rows, num_tiles(width, block)](
            *(out, gate, up, width, gate.stride(0)),
            ACTIVATION=activation.value,
            LIMIT=SWIGLU_LIMIT,
            ALPHA=SWIGLU_ALPHA,
            BLOCK=block,
            num_warps=num_warps(block),
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
    half_pad = power_of_two(half)
    block_heads = max(1, min(power_of_two(num_heads), TILE_NUMBERS // (2 * half_pad)))
    if num_tokens:
        rope_kernel[num_tokens, num_tiles(num_heads, block_heads)](
            *(x, cos.contiguous(), sin.contiguous(), num_heads, x.stride(0), x.stride(1)),
            HALF=half,
            HALF_PAD=half_pad,
            BLOCK_HEADS=block_heads,
            IS_INTERLEAVED=is_interleaved,
            num_warps=num_warps(2 * half_pad * block_heads),
        )


def _contiguous(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()
