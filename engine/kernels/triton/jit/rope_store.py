"""Queries and keys normalised and turned, keys and values into the paged cache, all in one launch."""

import triton
import triton.language as tl

from engine.kernels.triton.jit.store import largest_bits, quantize_heads, quantized, scale_of


@triton.jit
def rope_store_kernel(
    q_ptr,  # [num_tokens, num_q_heads, K_DIM], heads side by side, changed in place
    k_ptr,  # [num_tokens, num_kv_heads, K_DIM], heads side by side
    v_ptr,  # [num_tokens, num_kv_heads, V_DIM], heads side by side
    k_cache_ptr,  # [num_slots, num_kv_heads, K_DIM], changed in place
    v_cache_ptr,  # [num_slots, num_kv_heads, V_DIM], changed in place
    k_scale_ptr,  # [num_slots, num_kv_heads] float16, changed in place | None: the cache is not of 8 bits
    v_scale_ptr,  # as k_scale_ptr
    slot_mapping_ptr,  # [num_tokens] int64
    cos_ptr,  # [num_tokens, HALF] float32
    sin_ptr,  # [num_tokens, HALF] float32
    q_weight_ptr,  # [K_DIM] or [num_q_heads, K_DIM], where HAS_WEIGHT
    k_weight_ptr,  # [K_DIM] or [num_kv_heads, K_DIM], where HAS_WEIGHT
    eps,
    weight_offset,
    num_q_heads,
    num_kv_heads,
    stride_q_token,
    stride_k_token,
    stride_v_token,
    stride_weight_head,  # 0: all heads have the same
    HAS_NORM: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    K_DIM: tl.constexpr,
    V_DIM: tl.constexpr,
    HALF: tl.constexpr,
    HALF_PAD: tl.constexpr,
    REST_PAD: tl.constexpr,  # of the dimensions that are not turned
    V_PAD: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    IS_INTERLEAVED: tl.constexpr,
    LARGEST: tl.constexpr,
    IS_INT: tl.constexpr,
    MIN_SCALE: tl.constexpr,
    MAX_SCALE: tl.constexpr,
):
    """Some query heads of a token, or some key/value heads. Grid: [num_tokens, tiles of the former and of the latter]."""
    token, tile, num_q_tiles = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.cdiv(num_q_heads, BLOCK_HEADS)
    is_query = tile < num_q_tiles
    heads = (tile if is_query else tile - num_q_tiles) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)
    is_head = heads < (num_q_heads if is_query else num_kv_heads)
    row_ptr = q_ptr + token * stride_q_token if is_query else k_ptr + token * stride_k_token
    weight_ptr = q_weight_ptr if is_query else k_weight_ptr
    first, second, rest = turned_heads(
        *(row_ptr, weight_ptr, cos_ptr + token * HALF, sin_ptr + token * HALF, heads, is_head),
        *(eps, weight_offset, stride_weight_head, HAS_NORM, HAS_WEIGHT),
        *(K_DIM, HALF, HALF_PAD, REST_PAD, IS_INTERLEAVED),
    )
    if is_query:
        store_parts(row_ptr, heads, is_head, first, second, rest, K_DIM, HALF, HALF_PAD, REST_PAD, IS_INTERLEAVED)
    else:
        places = tl.load(slot_mapping_ptr + token) * num_kv_heads + heads
        store_keys(
            *(k_cache_ptr, k_scale_ptr, places, is_head, first, second, rest, k_ptr.dtype.element_ty),
            *(K_DIM, HALF, HALF_PAD, REST_PAD, IS_INTERLEAVED, LARGEST, IS_INT, MIN_SCALE, MAX_SCALE),
        )
        store_values(
            *(v_ptr + token * stride_v_token, v_cache_ptr, v_scale_ptr, heads, is_head, places),
            *(V_DIM, V_PAD, LARGEST, IS_INT, MIN_SCALE, MAX_SCALE),
        )


@triton.jit
def store_values(
    v_ptr,  # [num_kv_heads, WIDTH], of one token
    cache_ptr,  # [num_slots, num_kv_heads, WIDTH]
    scale_ptr,  # [num_slots, num_kv_heads] float16 | None
    heads,  # [BLOCK_HEADS] int32
    is_head,  # [BLOCK_HEADS] bool
    places,  # [BLOCK_HEADS] int64
    WIDTH: tl.constexpr,
    PAD: tl.constexpr,
    LARGEST: tl.constexpr,
    IS_INT: tl.constexpr,
    MIN_SCALE: tl.constexpr,
    MAX_SCALE: tl.constexpr,
):
    """Some heads' values, as they are or as 8-bit numbers."""
    if scale_ptr is not None:
        quantize_heads(
            *(v_ptr, cache_ptr, scale_ptr, heads, is_head, places),
            *(WIDTH, PAD, LARGEST, IS_INT, MIN_SCALE, MAX_SCALE),
        )
    else:
        dims = tl.arange(0, PAD)
        mask = is_head[:, None] & (dims < WIDTH)[None, :]
        v = tl.load(v_ptr + heads[:, None] * WIDTH + dims[None, :], mask=mask, other=0.0)
        tl.store(cache_ptr + places[:, None] * WIDTH + dims[None, :], v, mask=mask)


@triton.jit
def store_keys(
    cache_ptr,  # [num_slots, num_kv_heads, WIDTH]
    scale_ptr,  # [num_slots, num_kv_heads] float16 | None
    places,  # [BLOCK_HEADS] int64
    is_head,  # [BLOCK_HEADS] bool
    first,  # [BLOCK_HEADS, HALF_PAD]
    second,  # [BLOCK_HEADS, HALF_PAD]
    rest,  # [BLOCK_HEADS, REST_PAD]
    DTYPE: tl.constexpr,  # of the model
    WIDTH: tl.constexpr,
    HALF: tl.constexpr,
    HALF_PAD: tl.constexpr,
    REST_PAD: tl.constexpr,
    IS_INTERLEAVED: tl.constexpr,
    LARGEST: tl.constexpr,
    IS_INT: tl.constexpr,
    MIN_SCALE: tl.constexpr,
    MAX_SCALE: tl.constexpr,
):
    """What `turned_heads` gave, as it is or as 8-bit numbers."""
    if scale_ptr is not None:
        # Rounded to the model's dtype first, as keys are that are written before they are quantized.
        first, second = first.to(DTYPE).to(tl.float32), second.to(DTYPE).to(tl.float32)
        rest = rest.to(DTYPE).to(tl.float32)
        bits = tl.maximum(tl.maximum(largest_bits(first), largest_bits(second)), largest_bits(rest))
        scale = scale_of(bits, LARGEST, MAX_SCALE)
        tl.store(scale_ptr + places, scale.to(tl.float16), mask=is_head)
        first = quantized(first, scale, LARGEST, IS_INT, MIN_SCALE)
        second = quantized(second, scale, LARGEST, IS_INT, MIN_SCALE)
        rest = quantized(rest, scale, LARGEST, IS_INT, MIN_SCALE)
    store_parts(cache_ptr, places, is_head, first, second, rest, WIDTH, HALF, HALF_PAD, REST_PAD, IS_INTERLEAVED)


@triton.jit
def turned_heads(
    row_ptr,  # [num_heads, WIDTH], of one token
    weight_ptr,  # [WIDTH] or [num_heads, WIDTH], where HAS_WEIGHT
    cos_ptr,  # [HALF], of the token
    sin_ptr,  # [HALF], of the token
    heads,  # [BLOCK_HEADS] int32
    is_head,  # [BLOCK_HEADS] bool
    eps,
    weight_offset,
    stride_weight_head,
    HAS_NORM: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    HALF: tl.constexpr,
    HALF_PAD: tl.constexpr,
    REST_PAD: tl.constexpr,
    IS_INTERLEAVED: tl.constexpr,
):
    """Both numbers of each pair [BLOCK_HEADS, HALF_PAD], and what is not turned [BLOCK_HEADS, REST_PAD], in float32."""
    first_dims, second_dims, rest_dims, is_pair, is_rest = parts(WIDTH, HALF, HALF_PAD, REST_PAD, IS_INTERLEAVED)
    pair_mask, rest_mask = is_head[:, None] & is_pair[None, :], is_head[:, None] & is_rest[None, :]
    first = load_part(row_ptr, heads * WIDTH, first_dims, pair_mask)
    second = load_part(row_ptr, heads * WIDTH, second_dims, pair_mask)
    rest = load_part(row_ptr, heads * WIDTH, rest_dims, rest_mask)
    if HAS_NORM:
        total = tl.sum(first * first, 1) + tl.sum(second * second, 1) + tl.sum(rest * rest, 1)
        factor = tl.rsqrt(total / WIDTH + eps)[:, None]
        first, second, rest = first * factor, second * factor, rest * factor
        if HAS_WEIGHT:
            rows = heads * stride_weight_head
            first *= load_part(weight_ptr, rows, first_dims, pair_mask) + weight_offset
            second *= load_part(weight_ptr, rows, second_dims, pair_mask) + weight_offset
            rest *= load_part(weight_ptr, rows, rest_dims, rest_mask) + weight_offset
    pairs = tl.arange(0, HALF_PAD)
    # [1, HALF_PAD]
    cos = tl.load(cos_ptr + pairs, mask=is_pair, other=0.0)[None, :]
    sin = tl.load(sin_ptr + pairs, mask=is_pair, other=0.0)[None, :]
    return first * cos - second * sin, second * cos + first * sin, rest


@triton.jit
def store_parts(
    out_ptr,  # [num_rows, WIDTH]
    rows,  # [BLOCK_HEADS] int
    is_head,  # [BLOCK_HEADS] bool
    first,  # [BLOCK_HEADS, HALF_PAD]
    second,  # [BLOCK_HEADS, HALF_PAD]
    rest,  # [BLOCK_HEADS, REST_PAD]
    WIDTH: tl.constexpr,
    HALF: tl.constexpr,
    HALF_PAD: tl.constexpr,
    REST_PAD: tl.constexpr,
    IS_INTERLEAVED: tl.constexpr,
):
    """What `turned_heads` gave, into rows."""
    first_dims, second_dims, rest_dims, is_pair, is_rest = parts(WIDTH, HALF, HALF_PAD, REST_PAD, IS_INTERLEAVED)
    out_ptr += rows[:, None] * WIDTH
    pair_mask = is_head[:, None] & is_pair[None, :]
    tl.store(out_ptr + first_dims[None, :], first.to(out_ptr.dtype.element_ty), mask=pair_mask)
    tl.store(out_ptr + second_dims[None, :], second.to(out_ptr.dtype.element_ty), mask=pair_mask)
    rest_mask = is_head[:, None] & is_rest[None, :]
    tl.store(out_ptr + rest_dims[None, :], rest.to(out_ptr.dtype.element_ty), mask=rest_mask)


@triton.jit
def parts(
    WIDTH: tl.constexpr,
    HALF: tl.constexpr,
    HALF_PAD: tl.constexpr,
    REST_PAD: tl.constexpr,
    IS_INTERLEAVED: tl.constexpr,
):
    """Dimensions of the first and the second of each pair and of the rest, and which of the places are none."""
    pairs, rest_dims = tl.arange(0, HALF_PAD), 2 * HALF + tl.arange(0, REST_PAD)
    first_dims = pairs * 2 if IS_INTERLEAVED else pairs
    second_dims = first_dims + 1 if IS_INTERLEAVED else first_dims + HALF
    return first_dims, second_dims, rest_dims, pairs < HALF, rest_dims < WIDTH


@triton.jit
def load_part(ptr, rows, dims, mask):
    """[BLOCK_HEADS, PAD] float32."""
    return tl.load(ptr + rows[:, None] + dims[None, :], mask=mask, other=0.0).to(tl.float32)
