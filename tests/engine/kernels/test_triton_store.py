"""Triton's cache write against the reference: the same bits, in its slots and no others."""

import pytest
import torch

from engine.kernels import reference
from engine.kernels.quantization import LARGEST
from kvcache.storage import LayerCache
from tests.engine.kernels import triton_setup
from tests.engine.kernels.triton_setup import DEVICE

kernels = triton_setup.import_kernels()

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("are_views", [True, False])
def test_store_kv_writes_its_slots_and_no_others(are_views: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    slots = torch.randperm(40)[:19].to(DEVICE)
    qkv = torch.randn(19, 4 * 8 + 2 * 8 + 2 * 6).to(dtype).to(DEVICE)
    k, v = qkv[:, 32:48].unflatten(1, (2, 8)), qkv[:, 48:].unflatten(1, (2, 6))
    if not are_views:
        k, v = k.transpose(0, 1).contiguous().transpose(0, 1), v.contiguous()
    caches = [torch.full((10, 4, 2, width), torch.nan, dtype=dtype, device=DEVICE) for width in (8, 6)]
    expected = [cache.clone() for cache in caches]
    reference.store_kv(k, v, LayerCache(*expected), slots)
    kernels.store_kv(k, v, LayerCache(*caches), slots)
    for cache, wanted in zip(caches, expected, strict=True):
        torch.testing.assert_close(cache, wanted, rtol=0, atol=0, equal_nan=True)


def empty_cache(num_kv_heads: int, widths: tuple[int, int], dtype: torch.dtype) -> LayerCache:
    """10 blocks of 4 slots in 8 bits, with a mark in every place."""
    marks = [torch.full((10, 4, num_kv_heads, width), 3.0, device=DEVICE).to(dtype) for width in widths]
    scales = [torch.full((10, 4, num_kv_heads), 5.0, dtype=torch.float16, device=DEVICE) for _ in widths]
    return LayerCache(*marks, *scales)


def bits(cache: LayerCache) -> list[torch.Tensor]:
    return [x.view(torch.int8 if x.itemsize == 1 else torch.int16) for x in cache if x is not None]


@pytest.mark.parametrize("kv_cache_dtype", LARGEST, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num_kv_heads", "widths"), [(1, (64, 64)), (3, (80, 48)), (20, (128, 128))])
def test_8_bit_numbers_and_scales_are_the_references(
    num_kv_heads: int, widths: tuple[int, int], dtype: torch.dtype, kv_cache_dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    slots = torch.randperm(40)[:19].to(DEVICE)
    # From vectors whose scale is no number of float16 any more to those whose scale is infinite.
    size = torch.logspace(-9, 6, 19, device=DEVICE).view(-1, 1, 1)
    k, v = ((size * torch.randn(19, num_kv_heads, width, device=DEVICE)).to(dtype) for width in widths)
    k[3], v[4] = 0, torch.inf
    k[5] = torch.arange(widths[0], device=DEVICE).sub(20).to(dtype) / 2  # ties
    ours, theirs = (empty_cache(num_kv_heads, widths, kv_cache_dtype) for _ in range(2))
    kernels.store_kv(k, v, ours, slots)
    reference.store_kv(k, v, theirs, slots)
    for one, other in zip(bits(ours), bits(theirs), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kv_cache_dtype", LARGEST, ids=str)
def test_ties_go_to_even(kv_cache_dtype: torch.dtype) -> None:
    """Halves between neighbours of the format, where the scale is 1."""
    largest = LARGEST[kv_cache_dtype]
    grid = torch.arange(-127, 128).float()
    if kv_cache_dtype is not torch.int8:
        grid = torch.arange(256, dtype=torch.uint8).view(kv_cache_dtype).float().nan_to_num(0).sort().values
    halves = (grid[1:] + grid[:-1]) / 2
    k = torch.cat((halves, torch.tensor([largest] * (256 - len(halves))))).view(1, 1, 256).to(DEVICE)
    ours, theirs = (empty_cache(1, (256, 256), kv_cache_dtype) for _ in range(2))
    slots = torch.tensor([7], device=DEVICE)
    kernels.store_kv(k, k, ours, slots)
    reference.store_kv(k, k, theirs, slots)
    assert ours.k_scale is not None
    assert ours.k_scale.flatten(0, 1)[7] == 1
    for one, other in zip(bits(ours), bits(theirs), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kv_cache_dtype", LARGEST, ids=str)
def test_nan_stays_in_the_scale(kv_cache_dtype: torch.dtype) -> None:
    k = torch.ones(2, 2, 16, device=DEVICE)
    k[0, 1, 3] = torch.nan
    cache = empty_cache(2, (16, 16), kv_cache_dtype)
    kernels.store_kv(k, k, cache, torch.tensor([0, 1], device=DEVICE))
    assert cache.k_scale is not None
    assert cache.k_scale[0, :2].isnan().tolist() == [[False, True], [False, False]]


def test_what_does_not_fit_is_refused() -> None:
    x, slots = torch.zeros(3, 2, 8), torch.zeros(3, dtype=torch.int64)
    cache, scale = torch.zeros(4, 4, 2, 8), torch.zeros(4, 4, 2, dtype=torch.float16)
    narrow = cache.to(torch.int8)
    for given, mapping, name in (
        (LayerCache(cache, cache), slots[:2], "slot_mapping"),
        (LayerCache(cache, cache[..., :7]), slots, "cache.v"),
        (LayerCache(narrow, narrow), slots, "cache.k"),
        (LayerCache(cache, cache, scale, scale), slots, "cache.k"),
        (LayerCache(narrow, narrow, scale, scale.float()), slots, "cache.v_scale"),
    ):
        with pytest.raises(ValueError, match=name):
            kernels.store_kv(x, x, given, mapping)
