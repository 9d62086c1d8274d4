"""Attention of sequences that compute several tokens: prompts, and chunks of them after a context."""

import triton
import triton.language as tl

from engine.kernels.triton.jit.softmax import first_fold, load_heads, load_rows, scan_keys


@triton.jit
def prefill_kernel(
    out_ptr,  # [num_tokens, num_q_heads, V_DIM]
    q_ptr,  # [num_tokens, num_q_heads, K_DIM], heads side by side
    k_ptr,  # [num_blocks, BLOCK_SIZE, num_kv_heads, K_DIM]
    v_ptr,  # [num_blocks, BLOCK_SIZE, num_kv_heads, V_DIM]
    k_scale_ptr,  # [num_blocks, BLOCK_SIZE, num_kv_heads] float16 | None: k holds the keys themselves
    v_scale_ptr,  # as k_scale_ptr, for the values
    tables_ptr,  # [num_seqs, max_blocks] int64
    cu_seqlens_q_ptr,  # [num_seqs + 1] int64
    seq_lens_ptr,  # [num_seqs] int64
    tile_seqs_ptr,  # [num_tiles] int32: whose each tile is
    tile_rows_ptr,  # [num_tiles] int32: its first row; row = token of the sequence * NUM_Q_PER_KV + head of the group
    slopes_ptr,  # [num_q_heads] float32 | None
    sinks_ptr,  # [num_q_heads] | None
    softmax_scale,
    softcap,
    window,
    stride_q_token,
    stride_k_slot,
    stride_v_slot,
    stride_tables_seq,
    NUM_Q_PER_KV: tl.constexpr,
    K_DIM: tl.constexpr,
    V_DIM: tl.constexpr,
    K_PAD: tl.constexpr,
    V_PAD: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One tile of rows of one KV group. Grid: [num_tiles, num_kv_heads]."""
    seq, kv_head = tl.load(tile_seqs_ptr + tl.program_id(0)).to(tl.int64), tl.program_id(1)
    first_row, first_token = tl.load(tile_rows_ptr + tl.program_id(0)), tl.load(cu_seqlens_q_ptr + seq)
    query_len = (tl.load(cu_seqlens_q_ptr + seq + 1) - first_token).to(tl.int32)
    context_len = tl.load(seq_lens_ptr + seq).to(tl.int32) - query_len
    # [BLOCK_M]
    rows = first_row + tl.arange(0, BLOCK_M)
    tokens, heads = rows // NUM_Q_PER_KV, kv_head * NUM_Q_PER_KV + rows % NUM_Q_PER_KV
    is_row = tokens < query_len
    q_rows = (first_token + tokens) * stride_q_token + heads * K_DIM
    # [BLOCK_M, K_PAD]
    q = load_rows(q_ptr, q_rows, is_row, K_DIM, K_PAD, True)
    acc, peak, total = first_fold(sinks_ptr, heads, is_row, BLOCK_M, V_PAD)
    first_position = context_len + first_row // NUM_Q_PER_KV
    last_position = context_len + tl.minimum(query_len, (first_row + BLOCK_M - 1) // NUM_Q_PER_KV + 1) - 1
    start, full_start, full_stop, stop = find_keys(first_position, last_position, window, BLOCK_N)
    acc, peak, total = scan_keys(
        *(q, acc, peak, total, start, full_start, full_stop, stop),
        *(k_ptr + kv_head * K_DIM, v_ptr + kv_head * V_DIM, tables_ptr + seq * stride_tables_seq),
        *(context_len + tokens, softmax_scale, stride_k_slot, stride_v_slot),
        k_scale_ptr,
        v_scale_ptr,
        *(kv_head, tl.num_programs(1)),
        load_heads(slopes_ptr, heads, is_row),
        softcap,
        window,
        *(K_DIM, V_DIM, K_PAD, V_PAD, BLOCK_SIZE, BLOCK_N),
    )
    out_rows = (first_token + tokens) * (tl.num_programs(1) * NUM_Q_PER_KV) + heads
    store_rows(out_ptr, acc, total, out_rows, is_row, V_DIM, V_PAD)


@triton.jit
def find_keys(first_position, last_position, window, BLOCK_N: tl.constexpr):
    """Which keys the rows of a tile see, and which of them all rows see: see scan_keys."""
    stop = last_position + 1
    full_stop = (first_position + 1) // BLOCK_N * BLOCK_N
    if window is None:
        start, full_start = 0, 0
    else:
        start = tl.maximum(first_position - window + 1, 0)
        full_start = tl.cdiv(tl.maximum(last_position - window + 1, 0), BLOCK_N) * BLOCK_N
        full_start = tl.minimum(full_start, full_stop)
    return start, full_start, full_stop, stop


@triton.jit
def store_rows(
    out_ptr,  # [num_rows, V_DIM]
    acc,  # [BLOCK_M, V_PAD] float32
    total,  # [BLOCK_M] float32
    rows,  # [BLOCK_M] int64
    is_row,  # [BLOCK_M] bool
    V_DIM: tl.constexpr,
    V_PAD: tl.constexpr,
):
    """Write weighted means, rounded to the output's dtype."""
    # [BLOCK_M, V_PAD]; what is no row may have seen no key.
    tile = acc / tl.where(total > 0.0, total, 1.0)[:, None]
    dims = tl.arange(0, V_PAD)
    mask = is_row[:, None] & (dims < V_DIM)[None, :]
    tl.store(out_ptr + rows[:, None] * V_DIM + dims[None, :], tile.to(out_ptr.dtype.element_ty), mask=mask)
