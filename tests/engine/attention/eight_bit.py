"""A case's cache in 8 bits, and what it holds."""

import torch

from engine.kernels import reference
from engine.kernels.quantization import dequantize
from kvcache.storage import LayerCache
from tests.engine.attention.naive_attention import Case


def quantized(case: Case, kv_cache_dtype: torch.dtype) -> LayerCache:
    """The case's cache, stored slot by slot in 8 bits."""
    num_blocks, block_size = case.k_cache.shape[:2]
    cache = LayerCache(
        torch.zeros(case.k_cache.shape, dtype=kv_cache_dtype),
        torch.zeros(case.v_cache.shape, dtype=kv_cache_dtype),
        torch.zeros(case.k_cache.shape[:3], dtype=torch.float16),
        torch.zeros(case.v_cache.shape[:3], dtype=torch.float16),
    )
    slots = torch.randperm(num_blocks * block_size)
    reference.store_kv(case.k_cache.flatten(0, 1)[slots], case.v_cache.flatten(0, 1)[slots], cache, slots)
    return cache


def dequantized(cache: LayerCache, dtype: torch.dtype) -> LayerCache:
    pairs = ((cache.k, cache.k_scale), (cache.v, cache.v_scale))
    return LayerCache(*(dequantize(numbers, scale, dtype) for numbers, scale in pairs if scale is not None))
