"""Triton's paged attention at sizes that serve, against the reference in float64 on the same numbers."""

import itertools
from typing import Any

import pytest
import torch

from engine.kernels import reference
from engine.kernels.quantization import dequantize
from engine.models.alibi import alibi_slopes
from kvcache.storage import LayerCache
from tests.gpu.exactness import assert_exact

pytest.importorskip("triton")

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
MIXED = ([1, 1, 200, 1, 64, 1], [3000, 17, 200, 1024, 1500, 1])
"""Tokens that each sequence computes, and has: decodes, a whole prompt, a chunk after a context."""
FEATURES: dict[str, dict[str, Any]] = {
    "plain": {},
    "window": {"sliding_window": 128},
    "softcap": {"softcap": 30.0},
    "alibi": {"alibi_slopes": True},
    "sinks": {"sinks": True},
    "all": {"sliding_window": 300, "softcap": 20.0, "alibi_slopes": True, "sinks": True},
}
HEADS = [(32, 32, 128), (32, 8, 128), (32, 1, 128), (9, 3, 64), (16, 8, 80), (12, 4, 96), (8, 2, 192), (8, 4, 256)]


def check(
    device: torch.device,
    heads: tuple[int, int, int],
    dtype: torch.dtype,
    *,
    block_size: int = 16,
    kv_cache_dtype: torch.dtype | None = None,
    **options: Any,
) -> None:
    """One mixed batch over blocks in random order; slots that hold no token hold NaN where the cache is no 8-bit one."""
    from engine.kernels.triton import kernels

    num_q_heads, num_kv_heads, head_dim = heads
    query_lens, seq_lens = MIXED
    counts = [-(-seq_len // block_size) for seq_len in seq_lens]
    order = torch.randperm(sum(counts) + 3, device=device)[: sum(counts)]
    tables = torch.nn.utils.rnn.pad_sequence(list(order.split(counts)), batch_first=True)
    cache = filled_cache((len(order) + 3, block_size, num_kv_heads, head_dim), dtype, kv_cache_dtype, device)
    held = cache if kv_cache_dtype is None else widened(cache)
    if kv_cache_dtype is None:
        for seq, seq_len in enumerate(seq_lens):
            for tensor in (cache.k, cache.v):
                tensor[tables[seq, (seq_len - 1) // block_size], (seq_len - 1) % block_size + 1 :] = torch.nan
    given = {
        "alibi_slopes": torch.tensor(alibi_slopes(num_q_heads), dtype=torch.float32, device=device),
        "sinks": torch.randn(num_q_heads, device=device),
    }
    options = {name: given.get(name, value) for name, value in options.items()}
    options |= {
        "cu_seqlens_q": torch.tensor([0, *query_lens], device=device).cumsum(0),
        "seq_lens": torch.tensor(seq_lens, device=device),
        "softmax_scale": head_dim**-0.5,
    }
    q = torch.randn(sum(query_lens), num_q_heads, head_dim, device=device).to(dtype)
    out = kernels.paged_attention(q, cache, tables, **options)
    exact = reference.paged_attention(q.double(), LayerCache(held.k.double(), held.v.double()), tables, **options)
    assert_exact(out, exact, dtype)


def filled_cache(
    shape: tuple[int, ...], dtype: torch.dtype, kv_cache_dtype: torch.dtype | None, device: torch.device
) -> LayerCache:
    k, v = (torch.randn(shape, device=device).to(dtype) for _ in range(2))
    if kv_cache_dtype is None:
        return LayerCache(k, v)
    numbers = [torch.zeros(shape, dtype=kv_cache_dtype, device=device) for _ in range(2)]
    scales = [torch.zeros(shape[:3], dtype=torch.float16, device=device) for _ in range(2)]
    cache = LayerCache(*numbers, *scales)
    reference.store_kv(k.flatten(0, 1), v.flatten(0, 1), cache, torch.arange(shape[0] * shape[1], device=device))
    return cache


def widened(cache: LayerCache) -> LayerCache:
    """What an 8-bit cache holds, in float64."""
    pairs = ((cache.k, cache.k_scale), (cache.v, cache.v_scale))
    return LayerCache(*(dequantize(numbers, scale, torch.float64) for numbers, scale in pairs if scale is not None))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_heads(heads: tuple[int, int, int], dtype: torch.dtype, gpu: torch.device) -> None:
    check(gpu, heads, dtype)


@pytest.mark.parametrize("feature", FEATURES)
def test_features(feature: str, gpu: torch.device) -> None:
    check(gpu, (32, 8, 128), torch.bfloat16, **FEATURES[feature])


@pytest.mark.parametrize("kv_cache_dtype", [torch.int8, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("feature", ["plain", "all"])
def test_8_bit_caches(feature: str, kv_cache_dtype: torch.dtype, gpu: torch.device) -> None:
    check(gpu, (32, 8, 128), torch.bfloat16, kv_cache_dtype=kv_cache_dtype, **FEATURES[feature])


@pytest.mark.parametrize("block_size", [16, 24, 64, 256])
def test_block_sizes(block_size: int, gpu: torch.device) -> None:
    check(gpu, (32, 8, 128), torch.bfloat16, block_size=block_size)


def test_memory_grows_with_the_length_and_not_with_its_square(gpu: torch.device) -> None:
    """No score matrix: it would take 128 times as many bytes at the longest."""
    from benchmarks.attention_memory import measure

    points = measure(gpu, (4096, 8192, 16384))["points"]
    for point, doubled in itertools.pairwise(points):
        assert doubled["peak_bytes"] < 2.1 * point["peak_bytes"] + 2**20
    assert points[-1]["peak_bytes"] < points[-1]["score_matrix_bytes"] / 20
