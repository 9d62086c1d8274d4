"""Launches the cache write: as it is, or as 8-bit numbers and scales."""

from typing import Any

import torch
from torch import Tensor

from engine.kernels.base import KVTarget
from engine.kernels.quantization import FLOAT16_MAX, FLOAT16_MIN, LARGEST
from engine.kernels.triton.checks import check, check_cache
from engine.kernels.triton.jit.store import quantize_kernel, store_kernel
from engine.kernels.triton.tiles import TILE_NUMBERS, num_tiles, num_warps, power_of_two
from kvcache.storage import LayerCache


def store_kv(k: Tensor, v: Tensor, cache: LayerCache, slot_mapping: Tensor) -> None:
    """See reference.store_kv.

    Raises:
        ValueError: the cache or the mapping does not fit.
    """
    check_target(k, v, KVTarget(cache, slot_mapping))
    k, v = dense_rows(k), dense_rows(v)
    if k.shape[0]:
        (_store if cache.k_scale is None else _quantize)(k, v, cache, slot_mapping)


def _store(k: Tensor, v: Tensor, cache: LayerCache, slot_mapping: Tensor) -> None:
    k_width, v_width = k.shape[1] * k.shape[2], v.shape[1] * v.shape[2]
    store_kernel[(k.shape[0],)](
        *(k, v, cache.k, cache.v, slot_mapping, k.stride(0), v.stride(0)),
        K_WIDTH=k_width,
        V_WIDTH=v_width,
        K_PAD=power_of_two(k_width),
        V_PAD=power_of_two(v_width),
        num_warps=num_warps(power_of_two(k_width)),
    )


def _quantize(k: Tensor, v: Tensor, cache: LayerCache, slot_mapping: Tensor) -> None:
    num_tokens, num_kv_heads, k_head_dim = k.shape
    k_pad, v_pad = power_of_two(k_head_dim), power_of_two(v.shape[2])
    block_heads = max(1, min(power_of_two(num_kv_heads), TILE_NUMBERS // max(k_pad, v_pad)))
    quantize_kernel[num_tokens, num_tiles(num_kv_heads, block_heads)](
        *(k, v, *cache, slot_mapping, k.stride(0), v.stride(0), num_kv_heads),
        K_DIM=k_head_dim,
        V_DIM=v.shape[2],
        K_PAD=k_pad,
        V_PAD=v_pad,
        BLOCK_HEADS=block_heads,
        **rounding(cache),
        num_warps=num_warps(max(k_pad, v_pad) * block_heads),
    )


def check_target(k: Tensor, v: Tensor, target: KVTarget) -> None:
    """Refuse a cache or a mapping that does not fit keys and values.

    Raises:
        ValueError: as said.
    """
    cache = target.cache
    check_cache(cache, (*cache.k.shape[:2], k.shape[1]), (k.shape[2], v.shape[2]), k.dtype)
    check("slot_mapping", target.slot_mapping, (k.shape[0],), torch.int64)


def rounding(cache: LayerCache) -> dict[str, Any]:
    """What kernels are told of the 8-bit numbers of a cache; of no meaning to one without."""
    return {
        "LARGEST": LARGEST.get(cache.k.dtype, 1.0),
        "IS_INT": cache.k.dtype is torch.int8,
        "MIN_SCALE": FLOAT16_MIN,
        "MAX_SCALE": FLOAT16_MAX,
    }


def dense_rows(x: Tensor) -> Tensor:
    """The same [num_tokens, num_heads, head_dim]; a copy where the heads of a token do not lie side by side."""
    return x if x.stride(2) == 1 and x.stride(1) == x.shape[2] else x.contiguous()
