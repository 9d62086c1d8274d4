"""Keys and values into the paged cache: as they are, or as quantization.quantize makes them, bit for bit."""

import triton
import triton.language as tl


@triton.jit
def store_kernel(
    k_ptr,  # [num_tokens, num_kv_heads, K_DIM], heads side by side
    v_ptr,  # [num_tokens, num_kv_heads, V_DIM], heads side by side
    k_cache_ptr,  # [num_slots, K_WIDTH], changed in place
    v_cache_ptr,  # [num_slots, V_WIDTH], changed in place
    slot_mapping_ptr,  # [num_tokens] int64
    stride_k_token,
    stride_v_token,
    K_WIDTH: tl.constexpr,
    V_WIDTH: tl.constexpr,
    K_PAD: tl.constexpr,
    V_PAD: tl.constexpr,
):
    """A token's keys and values into its slot. Grid: [num_tokens]."""
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slot_mapping_ptr + token).to(tl.int64)
    k_dims, v_dims = tl.arange(0, K_PAD), tl.arange(0, V_PAD)
    k = tl.load(k_ptr + token * stride_k_token + k_dims, mask=k_dims < K_WIDTH, other=0.0)
    v = tl.load(v_ptr + token * stride_v_token + v_dims, mask=v_dims < V_WIDTH, other=0.0)
    tl.store(k_cache_ptr + slot * K_WIDTH + k_dims, k, mask=k_dims < K_WIDTH)
    tl.store(v_cache_ptr + slot * V_WIDTH + v_dims, v, mask=v_dims < V_WIDTH)


@triton.jit
def quantize_kernel(
    k_ptr,  # [num_tokens, num_kv_heads, K_DIM], heads side by side
    v_ptr,  # [num_tokens, num_kv_heads, V_DIM], heads side by side
    k_cache_ptr,  # [num_slots, num_kv_heads, K_DIM] int8 or e4m3, changed in place
    v_cache_ptr,  # [num_slots, num_kv_heads, V_DIM], as k_cache_ptr
    k_scale_ptr,  # [num_slots, num_kv_heads] float16, changed in place
    v_scale_ptr,  # [num_slots, num_kv_heads] float16, changed in place
    slot_mapping_ptr,  # [num_tokens] int64
    stride_k_token,
    stride_v_token,
    num_kv_heads,
    K_DIM: tl.constexpr,
    V_DIM: tl.constexpr,
    K_PAD: tl.constexpr,
    V_PAD: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    LARGEST: tl.constexpr,
    IS_INT: tl.constexpr,
    MIN_SCALE: tl.constexpr,
    MAX_SCALE: tl.constexpr,
):
    """Some heads of a token. Grid: [num_tokens, tiles of heads]."""
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slot_mapping_ptr + token)
    heads = tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)
    is_head, places = heads < num_kv_heads, slot * num_kv_heads + heads
    quantize_heads(
        *(k_ptr + token * stride_k_token, k_cache_ptr, k_scale_ptr, heads, is_head, places),
        *(K_DIM, K_PAD, LARGEST, IS_INT, MIN_SCALE, MAX_SCALE),
    )
    quantize_heads(
        *(v_ptr + token * stride_v_token, v_cache_ptr, v_scale_ptr, heads, is_head, places),
        *(V_DIM, V_PAD, LARGEST, IS_INT, MIN_SCALE, MAX_SCALE),
    )


@triton.jit
def quantize_heads(
    x_ptr,  # [num_kv_heads, WIDTH], of one token
    numbers_ptr,  # [num_slots, num_kv_heads, WIDTH]
    scale_ptr,  # [num_slots, num_kv_heads] float16
    heads,  # [BLOCK_HEADS] int32
    is_head,  # [BLOCK_HEADS] bool
    places,  # [BLOCK_HEADS] int64: slot * num_kv_heads + head
    WIDTH: tl.constexpr,
    PAD: tl.constexpr,
    LARGEST: tl.constexpr,
    IS_INT: tl.constexpr,
    MIN_SCALE: tl.constexpr,
    MAX_SCALE: tl.constexpr,
):
    """Numbers and a scale for each head."""
    dims = tl.arange(0, PAD)
    mask = is_head[:, None] & (dims < WIDTH)[None, :]
    # [BLOCK_HEADS, PAD] float32
    x = tl.load(x_ptr + heads[:, None] * WIDTH + dims[None, :], mask=mask, other=0.0).to(tl.float32)
    scale = scale_of(largest_bits(x), LARGEST, MAX_SCALE)
    tl.store(scale_ptr + places, scale.to(tl.float16), mask=is_head)
    numbers = quantized(x, scale, LARGEST, IS_INT, MIN_SCALE)
    tl.store(numbers_ptr + places[:, None] * WIDTH + dims[None, :], numbers.to(numbers_ptr.dtype.element_ty), mask=mask)


@triton.jit
def largest_bits(x):
    """The largest absolute value of each row, as the bits of a float32: in this order NaN is above all numbers."""
    return tl.max(x.to(tl.int32, bitcast=True) & 0x7FFFFFFF, 1)


@triton.jit
def scale_of(bits, LARGEST: tl.constexpr, MAX_SCALE: tl.constexpr):
    """The scale of rows whose `largest_bits` these are: a float16, in float32."""
    scale = round_up(tl.minimum(tl.math.div_rn(bits.to(tl.float32, bitcast=True), LARGEST), MAX_SCALE))
    # A minimum passes NaN by, which the scale must keep.
    return tl.where(bits > 0x7F800000, float("nan"), scale)


@triton.jit
def quantized(x, scale, LARGEST: tl.constexpr, IS_INT: tl.constexpr, MIN_SCALE: tl.constexpr):
    """The numbers, in float32, that times the scale [BLOCK_HEADS] are x [BLOCK_HEADS, PAD]."""
    divisor = tl.maximum(scale, MIN_SCALE)[:, None]
    numbers = tl.math.div_rn(x, tl.broadcast_to(divisor, x.shape))
    numbers = tl.minimum(tl.maximum(numbers, -LARGEST), LARGEST)
    return round_to_integer(numbers, 1.0) if IS_INT else round_to_e4m3(numbers)


@triton.jit
def round_up(x):
    """The smallest float16 that is at least x, in float32, for 0 <= x <= 65504: see quantization."""
    nearest = x.to(tl.float16)
    above = (nearest.to(tl.int16, bitcast=True) + 1).to(tl.float16, bitcast=True)
    return tl.where(nearest.to(tl.float32) < x, above, nearest).to(tl.float32)


@triton.jit
def round_to_integer(x, quantum):
    """The nearest multiple of a power of two, ties to even, where |x| < 2^22 of it: what lies below 1 has no bit there."""
    magic = 12582912.0 * quantum
    return (x + magic) - magic


@triton.jit
def round_to_e4m3(x):
    """The nearest number of e4m3, ties to even, in float32: conversions of GPUs and of the interpreter differ in that.

    It has three bits after the leading one, and below 2^-6 multiples of 2^-9.
    """
    bits = x.to(tl.int32, bitcast=True)
    exponent = tl.maximum((bits >> 23) & 255, 127 - 6)
    rounded = round_to_integer(tl.abs(x), ((exponent - 3) << 23).to(tl.float32, bitcast=True))
    # What rounds to 0 keeps its sign.
    return (rounded.to(tl.int32, bitcast=True) | (bits & -(2**31))).to(tl.float32, bitcast=True)
