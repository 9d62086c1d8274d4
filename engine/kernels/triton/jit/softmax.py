"""The loop that prefill and decode share: query rows against a run of keys of the paged cache, with a running softmax.

A row is a token and a query head of one KV group, so that a key or value is loaded once for all of them. Scores live in
one tile at a time and never in memory (Dao et al. 2022, FlashAttention, Algorithm 1); the loop goes over the keys and
leaves the division to the end (Dao 2023, FlashAttention-2, Algorithm 1). Exponents are of base 2, for which there is an
instruction. What a model does not have (window, softcap, ALiBi) is None, and left out when the kernel is compiled.

Numbers of 8 bits are multiplied as they are; a key's scale then multiplies its scores, and a value's scale its weights.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def scan_keys(
    q,  # [BLOCK_M, K_PAD]
    acc,  # [BLOCK_M, V_PAD] float32: sum of weights * values so far
    peak,  # [BLOCK_M] float32: largest score so far, base 2
    total,  # [BLOCK_M] float32: sum of weights so far
    start,  # int32: first key that any row sees
    full_start,  # int32: from here every row sees every key; a multiple of BLOCK_N, as the next one
    full_stop,  # int32: up to here
    stop,  # int32: past the last key that any row sees
    k_ptr,  # [num_slots, stride_k_slot], from one KV head on
    v_ptr,  # [num_slots, stride_v_slot], from one KV head on
    table_ptr,  # [max_blocks] int64, of one sequence
    positions,  # [BLOCK_M] int32: place of each row's token in its sequence
    softmax_scale,  # float32
    stride_k_slot,
    stride_v_slot,
    k_scale_ptr,  # [num_slots, num_kv_heads] float16 | None
    v_scale_ptr,  # as k_scale_ptr
    kv_head,
    num_kv_heads,
    slopes,  # [BLOCK_M] float32 | None
    softcap,  # float32 | None
    window,  # int32 | None
    K_DIM: tl.constexpr,
    V_DIM: tl.constexpr,
    K_PAD: tl.constexpr,
    V_PAD: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Fold keys [start, stop) into acc, peak and total, which it returns."""
    # Three runs: the window's edge, the keys that all rows see, the diagonal. Most of the work needs no mask.
    for run in tl.static_range(3):
        if run == 0:
            first, last = start // BLOCK_N * BLOCK_N, full_start
        elif run == 1:
            first, last = full_start, full_stop
        else:
            first, last = full_stop, stop
        if run > 0 or window is not None:
            for tile_start in range(first, last, BLOCK_N):
                # [BLOCK_N]
                keys = tile_start + tl.arange(0, BLOCK_N)
                is_key = (keys >= start) & (keys < stop)
                slots = find_slots(table_ptr, tile_start, keys, is_key, BLOCK_SIZE, BLOCK_N)
                # [BLOCK_N, K_PAD]
                k = widen(load_rows(k_ptr, slots * stride_k_slot, is_key, K_DIM, K_PAD, run != 1), q.dtype)
                k_scales = load_scales(k_scale_ptr, slots * num_kv_heads + kv_head, is_key)
                # [BLOCK_M, BLOCK_N]
                scores = score(q, k, k_scales, keys, positions, slopes, softmax_scale, softcap)
                if run != 1:
                    scores = hide(scores, keys, is_key, positions, window)
                # [BLOCK_N, V_PAD]
                v = widen(load_rows(v_ptr, slots * stride_v_slot, is_key, V_DIM, V_PAD, run != 1), q.dtype)
                v_scales = load_scales(v_scale_ptr, slots * num_kv_heads + kv_head, is_key)
                acc, peak, total = fold(acc, peak, total, scores, v, v_scales)
    return acc, peak, total


@triton.jit
def find_slots(table_ptr, tile_start, keys, is_key, BLOCK_SIZE: tl.constexpr, BLOCK_N: tl.constexpr):
    """[BLOCK_N] int64: a pool may hold more than 2^31 numbers. One look-up where a tile lies in one block."""
    if BLOCK_SIZE % BLOCK_N == 0:
        blocks = tl.load(table_ptr + tile_start // BLOCK_SIZE)
    else:
        # [BLOCK_N]
        blocks = tl.load(table_ptr + keys // BLOCK_SIZE, mask=is_key, other=0)
    return blocks.to(tl.int64) * BLOCK_SIZE + keys % BLOCK_SIZE


@triton.jit
def load_rows(
    base_ptr,
    offsets,  # [N] int64: where each row begins
    is_row,  # [N] bool
    WIDTH: tl.constexpr,
    PAD: tl.constexpr,
    HAS_GAPS: tl.constexpr,
):
    """[N, PAD], zero past the width, and where HAS_GAPS also for what is no row: its memory may hold anything."""
    dims = tl.arange(0, PAD)
    pointers = base_ptr + offsets[:, None] + dims[None, :]
    if HAS_GAPS:
        tile = tl.load(pointers, mask=is_row[:, None] & (dims < WIDTH)[None, :], other=0.0)
    elif WIDTH < PAD:
        tile = tl.load(pointers, mask=(dims < WIDTH)[None, :], other=0.0)
    else:
        tile = tl.load(pointers)
    return tile


@triton.jit
def widen(tile, dtype: tl.constexpr):
    """Numbers of 8 bits in the queries' dtype, which holds each of them exactly."""
    return tile if tile.dtype == dtype else tile.to(tl.float32).to(dtype)


@triton.jit
def load_scales(
    scale_ptr,  # [num_slots, num_kv_heads] float16 | None
    offsets,  # [BLOCK_N] int64
    is_key,  # [BLOCK_N] bool
):
    """[BLOCK_N] float32, or None."""
    return tl.load(scale_ptr + offsets, mask=is_key, other=0.0).to(tl.float32) if scale_ptr is not None else None


@triton.jit
def score(
    q,  # [BLOCK_M, K_PAD]
    k,  # [BLOCK_N, K_PAD]
    k_scales,  # [BLOCK_N] float32 | None
    keys,  # [BLOCK_N] int32
    positions,  # [BLOCK_M] int32
    slopes,  # [BLOCK_M] float32 | None
    softmax_scale,
    softcap,
):
    """[BLOCK_M, BLOCK_N] float32, base 2: scaled, then capped, then biased, as in reference_attention.grouped_attention."""
    # float32 numbers are multiplied as they are, not rounded to TF32.
    scores = tl.dot(q, tl.trans(k), input_precision="ieee")
    if k_scales is not None:
        scores = scores * k_scales[None, :]
    if softcap is None:
        scores = scores * (softmax_scale * LOG2_E)
    else:
        # tanh(x) = 2 sigmoid(2 x) - 1
        scores = (2.0 * tl.sigmoid(scores * (2.0 * softmax_scale / softcap)) - 1.0) * (softcap * LOG2_E)
    if slopes is not None:
        distance = (keys[None, :] - positions[:, None]).to(tl.float32)
        scores += (slopes * LOG2_E)[:, None] * distance
    return scores


@triton.jit
def hide(
    scores,  # [BLOCK_M, BLOCK_N]
    keys,  # [BLOCK_N] int32
    is_key,  # [BLOCK_N] bool
    positions,  # [BLOCK_M] int32
    window,
):
    """[BLOCK_M, BLOCK_N]: minus infinity where a row must not look (reference_attention.causal_mask)."""
    is_seen = is_key[None, :] & (keys[None, :] <= positions[:, None])
    if window is not None:
        is_seen = is_seen & (keys[None, :] > positions[:, None] - window)
    return tl.where(is_seen, scores, float("-inf"))


@triton.jit
def fold(
    acc,  # [BLOCK_M, V_PAD] float32
    peak,  # [BLOCK_M] float32
    total,  # [BLOCK_M] float32
    scores,  # [BLOCK_M, BLOCK_N] float32
    v,  # [BLOCK_N, V_PAD]
    v_scales,  # [BLOCK_N] float32 | None
):
    """Take in one more tile of keys (FlashAttention-2, Algorithm 1, lines 9 and 10)."""
    new_peak = tl.maximum(peak, tl.max(scores, 1))
    # A row that has seen no key yet would compute infinity - infinity.
    shift = tl.where(new_peak == float("-inf"), 0.0, new_peak)
    # [BLOCK_M, BLOCK_N]
    weights = tl.exp2(scores - shift[:, None])
    decay = tl.exp2(peak - shift)
    total = total * decay + tl.sum(weights, 1)
    if v_scales is None:
        acc = tl.dot(weights.to(v.dtype), v, acc * decay[:, None], input_precision="ieee")
    else:
        # Scales over the largest one: weights times tiny scales would be no numbers of float16 any more.
        largest = tl.max(v_scales, 0)
        weights = weights * (v_scales / tl.where(largest > 0.0, largest, 1.0))[None, :]
        acc = acc * decay[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee") * largest
    return acc, new_peak, total


@triton.jit
def first_fold(
    sinks_ptr,  # [num_q_heads] | None
    heads,  # [BLOCK_M]
    is_row,  # [BLOCK_M] bool
    BLOCK_M: tl.constexpr,
    V_PAD: tl.constexpr,
):
    """acc, peak and total before any key; a sink is a score that has no value."""
    acc = tl.zeros([BLOCK_M, V_PAD], tl.float32)
    if sinks_ptr is None:
        peak = tl.full([BLOCK_M], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK_M], tl.float32)
    else:
        peak = load_heads(sinks_ptr, heads, is_row) * LOG2_E
        total = tl.full([BLOCK_M], 1.0, tl.float32)
    return acc, peak, total


@triton.jit
def load_heads(
    head_ptr,  # [num_q_heads] | None
    heads,  # [BLOCK_M]
    is_row,  # [BLOCK_M] bool
):
    """What each row's head has, [BLOCK_M] float32, or None."""
    return tl.load(head_ptr + heads, mask=is_row, other=0.0).to(tl.float32) if head_ptr is not None else None
