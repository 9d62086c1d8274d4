"""The paged cache: writing to it, and attention over it. src/store.c and src/attention.c do the work."""

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from engine.kernels.cpu.checks import check_rows, check_tensor, describe
from engine.kernels.cpu.library import DTYPES, KV_DTYPES, NO_WINDOW, native_library
from kvcache.storage import EIGHT_BIT_DTYPES, SCALE_DTYPE, LayerCache


class _Attention(ctypes.Structure):
    """src/kernels.h: Attention."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("q", "k_cache", "v_cache", "k_scale", "v_scale", "out")),
        *((name, ctypes.c_void_p) for name in ("block_tables", "cu_seqlens_q", "seq_lens", "alibi_slopes", "sinks")),
        *((name, ctypes.c_int64) for name in ("q_stride", "num_tokens", "num_seqs", "max_blocks", "block_size")),
        *((name, ctypes.c_int64) for name in ("num_q_heads", "num_kv_heads", "k_head_dim", "v_head_dim", "window")),
        *((name, ctypes.c_float) for name in ("softmax_scale", "softcap")),
        *((name, ctypes.c_int32) for name in ("dtype", "kv_dtype", "num_threads")),
    )


class Scoring(NamedTuple):
    """How products of queries and keys become scores; engine.kernels.reference.paged_attention says what each field is."""

    softmax_scale: float
    sliding_window: int | None = None
    softcap: float | None = None
    alibi_slopes: Tensor | None = None
    sinks: Tensor | None = None


class Tables(NamedTuple):
    """Where a batch's tokens are; engine.kernels.reference.paged_attention says what each field is."""

    block_tables: Tensor
    cu_seqlens_q: Tensor
    seq_lens: Tensor


def store_kv(k: Tensor, v: Tensor, cache: LayerCache, slot_mapping: Tensor, num_threads: int) -> None:
    """See engine.kernels.reference.store_kv.

    Raises:
        ValueError: shapes, dtypes or strides do not fit.
    """
    dtype = _native_dtype("k", k)
    strides = [check_rows(name, rows, 3, dtype) for name, rows in (("k", k), ("v", v))]
    num_tokens = k.shape[0]
    check_tensor("slot_mapping", slot_mapping, (num_tokens,), torch.int64)
    if v.shape[:2] != k.shape[:2]:
        raise ValueError(f"v: expected {num_tokens} tokens of {k.shape[1]} heads, got {list(v.shape[:2])}")
    check_cache(cache, k.shape[1], k.shape[2], v.shape[2], dtype)
    store = native_library().hc_store_kv
    parts = zip((k, v), (cache.k, cache.v), (cache.k_scale, cache.v_scale), strides, strict=True)
    for rows, numbers, scale, stride in parts:
        pointers = (rows.data_ptr(), numbers.data_ptr(), pointer(scale), slot_mapping.data_ptr())
        store(DTYPES[dtype], KV_DTYPES[numbers.dtype], *pointers, *rows.shape, stride, num_threads)


def paged_attention(q: Tensor, cache: LayerCache, tables: Tables, scoring: Scoring, num_threads: int) -> Tensor:
    """See engine.kernels.reference.paged_attention.

    Raises:
        ValueError: shapes, dtypes or strides do not fit, or lengths do not fit together.
        MemoryError: no room for the scratch.
    """
    dtype = _native_dtype("q", q)
    stride = check_rows("q", q, 3, dtype)
    _check_cache_and_tables(q, cache, tables)
    _check_per_head(q.shape[1], scoring)
    block_tables, cu_seqlens_q, seq_lens = tables
    num_tokens, num_q_heads, k_head_dim = q.shape
    num_seqs, max_blocks = block_tables.shape
    out = torch.empty(num_tokens, num_q_heads, cache.v.shape[3], dtype=dtype)
    # The kernel reads one number a head; a name keeps what was made for it alive.
    slopes, sinks = (None if tensor is None else tensor.float() for tensor in (scoring.alibi_slopes, scoring.sinks))
    arguments = _Attention(
        *(q.data_ptr(), cache.k.data_ptr(), cache.v.data_ptr(), pointer(cache.k_scale), pointer(cache.v_scale)),
        *(out.data_ptr(), block_tables.data_ptr(), cu_seqlens_q.data_ptr(), seq_lens.data_ptr()),
        *(pointer(slopes), pointer(sinks)),
        *(stride, num_tokens, num_seqs, max_blocks, cache.k.shape[1]),
        *(num_q_heads, cache.k.shape[2], k_head_dim, cache.v.shape[3]),
        NO_WINDOW if scoring.sliding_window is None else scoring.sliding_window,
        *(scoring.softmax_scale, scoring.softcap or 0.0),
        *(DTYPES[dtype], KV_DTYPES[cache.k.dtype], num_threads),
    )
    raise_for(native_library().hc_paged_attention(ctypes.byref(arguments)), num_tokens)
    return out


def check_cache(cache: LayerCache, num_kv_heads: int, k_head_dim: int, v_head_dim: int, dtype: torch.dtype) -> None:
    """A cache for keys and values of `dtype`: of that dtype itself, or of 8 bits with scales.

    Raises:
        ValueError: it is another.
    """
    places, kv_dtype = cache.v.shape[:2], cache.k.dtype
    if dtype not in DTYPES or (kv_dtype is not dtype and kv_dtype not in EIGHT_BIT_DTYPES):
        expected = f"{', '.join(map(str, DTYPES))}, or 8 bits under one of them"
        raise ValueError(f"cache.k: expected {expected}, got {kv_dtype} under {dtype}")
    check_tensor("cache.k", cache.k, (*places, num_kv_heads, k_head_dim), kv_dtype)
    check_tensor("cache.v", cache.v, (*places, num_kv_heads, v_head_dim), kv_dtype)
    for name, scale in (("k_scale", cache.k_scale), ("v_scale", cache.v_scale)):
        if (scale is None) is not (kv_dtype is dtype):
            raise ValueError(f"cache.{name}: expected where the cache has 8 bits, and nowhere else")
        if scale is not None:
            check_tensor(f"cache.{name}", scale, (*places, num_kv_heads), SCALE_DTYPE)


def pointer(tensor: Tensor | None) -> int | None:
    """The address of a tensor that need not be there."""
    return None if tensor is None else tensor.data_ptr()


def raise_for(result: int, num_tokens: int) -> None:
    """What the attention kernel returns, as an exception where it failed.

    Raises:
        ValueError: lengths do not fit together.
        MemoryError: no room for the scratch.
    """
    if result == -2:
        raise ValueError(
            f"cu_seqlens_q: expected offsets from 0 to {num_tokens}, with no more tokens between them than seq_lens, and"
            " seq_lens no longer than their block_tables"
        )
    if result:
        raise MemoryError(f"no scratch memory for the attention of {num_tokens} tokens")


def _native_dtype(name: str, tensor: Tensor) -> torch.dtype:
    if tensor.dtype not in DTYPES:
        raise ValueError(f"{name}: expected one of {', '.join(map(str, DTYPES))}, got {describe(tensor)}")
    return tensor.dtype


def _check_cache_and_tables(q: Tensor, cache: LayerCache, tables: Tables) -> None:
    block_tables, cu_seqlens_q, seq_lens = tables
    if cache.v.dim() != 4 or block_tables.dim() != 2:
        given = f"{describe(cache.v)} and {describe(block_tables)}"
        raise ValueError(f"cache.v, block_tables: expected 4 and 2 dimensions, got {given}")
    num_q_heads, num_kv_heads, num_seqs = q.shape[1], cache.v.shape[2], block_tables.shape[0]
    check_cache(cache, num_kv_heads, q.shape[2], cache.v.shape[3], q.dtype)
    check_tensor("block_tables", block_tables, tuple(block_tables.shape), torch.int64)
    check_tensor("cu_seqlens_q", cu_seqlens_q, (num_seqs + 1,), torch.int64)
    check_tensor("seq_lens", seq_lens, (num_seqs,), torch.int64)
    if num_q_heads % num_kv_heads:
        raise ValueError(f"q: expected a multiple of {num_kv_heads} heads, got {num_q_heads}")


def _check_per_head(num_q_heads: int, scoring: Scoring) -> None:
    for name, numbers in (("alibi_slopes", scoring.alibi_slopes), ("sinks", scoring.sinks)):
        if numbers is not None:
            check_tensor(name, numbers, (num_q_heads,), numbers.dtype)
