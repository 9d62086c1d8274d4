"""What reads a row, computes, and writes a row: norms, activations, rope."""

import triton
import triton.language as tl


@triton.jit
def norm_kernel(
    out_ptr,  # [num_tokens, NUM_HEADS, WIDTH]
    x_ptr,  # [num_tokens, NUM_HEADS, WIDTH]
    weight_ptr,  # [WIDTH] or [NUM_HEADS, WIDTH] | None
    bias_ptr,  # as weight_ptr | None
    eps,
    weight_offset,
    num_rows,  # num_tokens * NUM_HEADS
    stride_x_token,
    stride_x_head,
    stride_weight_head,  # 0: all heads have the same
    NUM_HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    PAD: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    IS_CENTERED: tl.constexpr,
):
    """RMSNorm, or LayerNorm where IS_CENTERED, of BLOCK_ROWS rows. Grid: [tiles of rows]."""
    # [BLOCK_ROWS]
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    heads, dims = rows % NUM_HEADS, tl.arange(0, PAD)
    mask = (rows < num_rows)[:, None] & (dims < WIDTH)[None, :]
    starts = (rows // NUM_HEADS) * stride_x_token + heads * stride_x_head
    # [BLOCK_ROWS, PAD] float32
    x = tl.load(x_ptr + starts[:, None] + dims[None, :], mask=mask, other=0.0).to(tl.float32)
    if IS_CENTERED:
        # Twice over the numbers in registers: the mean of squares less the square of the mean would cancel.
        x = tl.where(mask, x - tl.sum(x, 1)[:, None] / WIDTH, 0.0)
    normed = x * tl.rsqrt(tl.sum(x * x, 1) / WIDTH + eps)[:, None]
    places = heads[:, None] * stride_weight_head + dims[None, :]
    if weight_ptr is not None:
        normed = normed * (tl.load(weight_ptr + places, mask=mask, other=0.0).to(tl.float32) + weight_offset)
    if bias_ptr is not None:
        normed = normed + tl.load(bias_ptr + places, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + rows[:, None] * WIDTH + dims[None, :], normed.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def activation_kernel(
    out_ptr,  # [num_rows, width]
    gate_ptr,  # [num_rows, width]
    up_ptr,  # [num_rows, width] | None
    width,
    stride_gate_row,
    ACTIVATION: tl.constexpr,
    LIMIT: tl.constexpr,
    ALPHA: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """activation(gate), times up where there is one. Grid: [num_rows, tiles of the width]."""
    row, columns = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = columns < width
    # [BLOCK] float32
    gate = tl.load(gate_ptr + row * stride_gate_row + columns, mask=mask, other=0.0).to(tl.float32)
    if up_ptr is None:
        out = apply_activation(gate, ACTIVATION)
    else:
        up = tl.load(up_ptr + row * stride_gate_row + columns, mask=mask, other=0.0).to(tl.float32)
        if ACTIVATION == "clamped_swiglu":
            gate = tl.minimum(gate, LIMIT, propagate_nan=tl.PropagateNan.ALL)
            up = tl.clamp(up, -LIMIT, LIMIT, propagate_nan=tl.PropagateNan.ALL)
            out = (up + 1.0) * gate * tl.sigmoid(ALPHA * gate)
        else:
            out = apply_activation(gate, ACTIVATION) * up
    tl.store(out_ptr + row * width + columns, out.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def apply_activation(x, ACTIVATION: tl.constexpr):
    """The nonlinearity in float32, as reference.activate."""
    if ACTIVATION == "silu":
        out = x * tl.sigmoid(x)
    elif ACTIVATION == "gelu":
        out = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif ACTIVATION == "gelu_tanh":
        # (1 + tanh(z)) / 2 = sigmoid(2 z)
        out = x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    else:
        out = tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)
        if ACTIVATION == "relu_squared":
            out = out * out
    return out


@triton.jit
def rope_kernel(
    x_ptr,  # [num_tokens, num_heads, head_dim], changed in place
    cos_ptr,  # [num_tokens, HALF] float32
    sin_ptr,  # [num_tokens, HALF] float32
    num_heads,
    stride_x_token,
    stride_x_head,
    HALF: tl.constexpr,
    HALF_PAD: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    IS_INTERLEAVED: tl.constexpr,
):
    """Turn the pairs of some heads of a token. Grid: [num_tokens, tiles of heads]."""
    token, pairs = tl.program_id(0).to(tl.int64), tl.arange(0, HALF_PAD)
    heads = tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)
    mask = (heads < num_heads)[:, None] & (pairs < HALF)[None, :]
    # [1, HALF_PAD]
    cos = tl.load(cos_ptr + token * HALF + pairs, mask=pairs < HALF, other=0.0)[None, :]
    sin = tl.load(sin_ptr + token * HALF + pairs, mask=pairs < HALF, other=0.0)[None, :]
    step: tl.constexpr = 2 if IS_INTERLEAVED else 1
    # [BLOCK_HEADS, HALF_PAD]
    first_ptr = x_ptr + token * stride_x_token + heads[:, None] * stride_x_head + pairs[None, :] * step
    second_ptr = first_ptr + (1 if IS_INTERLEAVED else HALF)
    first = tl.load(first_ptr, mask=mask, other=0.0).to(tl.float32)
    second = tl.load(second_ptr, mask=mask, other=0.0).to(tl.float32)
    tl.store(first_ptr, (first * cos - second * sin).to(x_ptr.dtype.element_ty), mask=mask)
    tl.store(second_ptr, (second * cos + first * sin).to(x_ptr.dtype.element_ty), mask=mask)
