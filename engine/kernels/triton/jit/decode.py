"""Attention of sequences that compute one token: keys split among programs, then put together.

One sequence's keys would keep a few processors busy and leave the others idle (Dao et al. 2023, Flash-Decoding).
"""

import triton
import triton.language as tl

from engine.kernels.triton.jit.prefill import store_rows
from engine.kernels.triton.jit.softmax import first_fold, load_heads, load_rows, scan_keys


@triton.jit
def decode_kernel(
    out_ptr,  # num_splits = 1: [num_tokens, num_q_heads, V_DIM]; else [num_splits, num_decodes, num_q_heads, V_DIM] float32
    lse_ptr,  # [num_splits, num_decodes, num_q_heads] float32: log2 of each split's total | None: num_splits = 1
    q_ptr,  # [num_tokens, num_q_heads, K_DIM], heads side by side
    k_ptr,  # [num_blocks, BLOCK_SIZE, num_kv_heads, K_DIM]
    v_ptr,  # [num_blocks, BLOCK_SIZE, num_kv_heads, V_DIM]
    k_scale_ptr,  # [num_blocks, BLOCK_SIZE, num_kv_heads] float16 | None: k holds the keys themselves
    v_scale_ptr,  # as k_scale_ptr, for the values
    tables_ptr,  # [num_seqs, max_blocks] int64
    cu_seqlens_q_ptr,  # [num_seqs + 1] int64
    seq_lens_ptr,  # [num_seqs] int64
    decode_seqs_ptr,  # [num_decodes] int32: the sequences that compute one token
    slopes_ptr,  # [num_q_heads] float32 | None
    sinks_ptr,  # [num_q_heads] | None; with several splits they are the last kernel's business
    softmax_scale,
    softcap,
    window,
    stride_q_token,
    stride_k_slot,
    stride_v_slot,
    stride_tables_seq,
    num_kv_heads,
    NUM_Q_PER_KV: tl.constexpr,
    K_DIM: tl.constexpr,
    V_DIM: tl.constexpr,
    K_PAD: tl.constexpr,
    V_PAD: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One split of the keys of one KV group. Grid: [num_decodes, num_kv_heads * tiles of a group, num_splits]."""
    seq = tl.load(decode_seqs_ptr + tl.program_id(0)).to(tl.int64)
    kv_head, tile = tl.program_id(1) % num_kv_heads, tl.program_id(1) // num_kv_heads
    seq_len = tl.load(seq_lens_ptr + seq).to(tl.int32)
    start, full_start, full_stop, stop = find_split(seq_len, window, tl.program_id(2), tl.num_programs(2), BLOCK_N)
    if start >= stop:
        return
    rows = tile * BLOCK_M + tl.arange(0, BLOCK_M)  # [BLOCK_M]
    heads, is_row = kv_head * NUM_Q_PER_KV + rows, rows < NUM_Q_PER_KV
    token, num_q_heads = tl.load(cu_seqlens_q_ptr + seq), num_kv_heads * NUM_Q_PER_KV
    # [BLOCK_M, K_PAD]
    q = load_rows(q_ptr, token * stride_q_token + heads * K_DIM, is_row, K_DIM, K_PAD, True)
    acc, peak, total = first_fold(sinks_ptr if lse_ptr is None else None, heads, is_row, BLOCK_M, V_PAD)
    acc, peak, total = scan_keys(
        *(q, acc, peak, total, start, full_start, full_stop, stop),
        *(k_ptr + kv_head * K_DIM, v_ptr + kv_head * V_DIM, tables_ptr + seq * stride_tables_seq),
        *(tl.zeros([BLOCK_M], tl.int32) + seq_len - 1, softmax_scale, stride_k_slot, stride_v_slot),
        k_scale_ptr,
        v_scale_ptr,
        *(kv_head, num_kv_heads),
        load_heads(slopes_ptr, heads, is_row),
        softcap,
        window,
        *(K_DIM, V_DIM, K_PAD, V_PAD, BLOCK_SIZE, BLOCK_N),
    )
    if lse_ptr is not None:
        token = tl.program_id(2).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
        tl.store(lse_ptr + token * num_q_heads + heads, peak + tl.log2(total), mask=is_row)
    store_rows(out_ptr, acc, total, token * num_q_heads + heads, is_row, V_DIM, V_PAD)


@triton.jit
def combine_kernel(
    out_ptr,  # [num_tokens, num_q_heads, V_DIM]
    partial_ptr,  # [num_splits, num_decodes, num_q_heads, V_DIM] float32
    lse_ptr,  # [num_splits, num_decodes, num_q_heads] float32
    cu_seqlens_q_ptr,  # [num_seqs + 1] int64
    seq_lens_ptr,  # [num_seqs] int64
    decode_seqs_ptr,  # [num_decodes] int32
    sinks_ptr,  # [num_q_heads] | None
    window,
    num_splits,
    V_DIM: tl.constexpr,
    V_PAD: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_SPLITS: tl.constexpr,
):
    """The splits of one query head, each weighed by its share of all weights. Grid: [num_decodes, num_q_heads]."""
    seq = tl.load(decode_seqs_ptr + tl.program_id(0)).to(tl.int64)
    head, num_rows = tl.program_id(1) + tl.arange(0, 1), tl.num_programs(0) * tl.num_programs(1)
    row = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    seq_len = tl.load(seq_lens_ptr + seq).to(tl.int32)
    _, first_tile, tiles_per_split = divide_keys(seq_len, window, num_splits, BLOCK_N)
    num_used = tl.cdiv(tl.cdiv(seq_len, BLOCK_N) - first_tile, tiles_per_split)
    acc, peak, total = first_fold(sinks_ptr, head, head >= 0, 1, V_PAD)
    for first_split in range(0, num_used, BLOCK_SPLITS):
        # [BLOCK_SPLITS]
        splits = first_split + tl.arange(0, BLOCK_SPLITS)
        rows, is_used = splits.to(tl.int64) * num_rows + row, splits < num_used
        lse = tl.load(lse_ptr + rows, mask=is_used, other=float("-inf"))
        # [BLOCK_SPLITS, V_PAD]
        partial = load_rows(partial_ptr, rows * V_DIM, is_used, V_DIM, V_PAD, True)
        new_peak = tl.maximum(peak, tl.max(lse, 0))
        weights, decay = tl.exp2(lse - new_peak), tl.exp2(peak - new_peak)
        acc = acc * decay[:, None] + tl.sum(weights[:, None] * partial, 0)[None, :]
        total = total * decay + tl.sum(weights, 0)
        peak = new_peak
    token = tl.load(cu_seqlens_q_ptr + seq)
    store_rows(out_ptr, acc, total, token * tl.num_programs(1) + head, head >= 0, V_DIM, V_PAD)


@triton.jit
def divide_keys(seq_len, window, num_splits, BLOCK_N: tl.constexpr):
    """First key that is seen, the tile of keys that it lies in, and how many such tiles a split has."""
    first_key = 0 if window is None else tl.maximum(seq_len - window, 0)
    first_tile = first_key // BLOCK_N
    return first_key, first_tile, tl.cdiv(tl.cdiv(seq_len, BLOCK_N) - first_tile, num_splits)


@triton.jit
def find_split(seq_len, window, split, num_splits, BLOCK_N: tl.constexpr):
    """Which keys a split has, and which of them need no mask: see scan_keys. The last splits may be empty."""
    first_key, first_tile, tiles_per_split = divide_keys(seq_len, window, num_splits, BLOCK_N)
    split_start = (first_tile + split * tiles_per_split) * BLOCK_N
    start = tl.maximum(split_start, first_key)
    stop = tl.minimum(split_start + tiles_per_split * BLOCK_N, seq_len)
    full_stop = stop // BLOCK_N * BLOCK_N
    return start, tl.minimum(tl.cdiv(start, BLOCK_N) * BLOCK_N, full_stop), full_stop, stop
