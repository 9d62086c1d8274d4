"""Triton's norm, rotation and cache write in one launch, against the reference's one after another."""

import itertools
from typing import NamedTuple

import pytest
import torch

from engine.kernels import reference
from engine.kernels.base import HeadNorm, KVTarget, Rotation
from engine.kernels.quantization import LARGEST, dequantize
from kvcache.storage import LayerCache
from tests.engine.kernels import triton_setup
from tests.engine.kernels.triton_setup import DEVICE, output_eps

kernels = triton_setup.import_kernels()

NUM_TOKENS, NUM_SLOTS = 3, 40


class Case(NamedTuple):
    """Heads and widths.

    Attributes:
        heads: query heads and key/value heads.
        widths: of keys and of values.
        half: pairs that are turned.
    """

    heads: tuple[int, int]
    widths: tuple[int, int]
    half: int


CASES = (
    Case((6, 2), (64, 64), 32),
    Case((9, 3), (80, 48), 16),
    Case((4, 4), (96, 96), 48),
    Case((5, 1), (128, 128), 24),
    Case((40, 8), (256, 128), 128),
)
NORMS = (None, "none", "shared", "own")


def heads_of(case: Case, dtype: torch.dtype) -> list[torch.Tensor]:
    """q, k and v as views of one projection."""
    sizes = [(case.heads[0], case.widths[0]), (case.heads[1], case.widths[0]), (case.heads[1], case.widths[1])]
    qkv = torch.randn(NUM_TOKENS, sum(num * width for num, width in sizes), device=DEVICE).to(dtype)
    parts = qkv.split([num * width for num, width in sizes], 1)
    return [part.unflatten(1, size) for part, size in zip(parts, sizes, strict=True)]


def norm_of(kind: str | None, case: Case, dtype: torch.dtype) -> HeadNorm | None:
    if kind is None:
        return None
    if kind == "none":
        return HeadNorm(None, None, 1e-5)
    shapes = [(num, case.widths[0]) if kind == "own" else (case.widths[0],) for num in case.heads]
    return HeadNorm(*(torch.randn(shape, device=DEVICE).to(dtype) for shape in shapes), 1e-5, weight_offset=1.0)


def cache_of(case: Case, dtype: torch.dtype) -> LayerCache:
    """10 blocks of 4 slots with a mark in every place."""
    shapes = [(10, NUM_SLOTS // 10, case.heads[1], width) for width in case.widths]
    marks = [torch.full(shape, 3.0, device=DEVICE).to(dtype) for shape in shapes]
    if dtype not in LARGEST:
        return LayerCache(*marks)
    return LayerCache(*marks, *(torch.full(shape[:3], 5.0, dtype=torch.float16, device=DEVICE) for shape in shapes))


def rotation_of(case: Case, *, is_interleaved: bool) -> Rotation:
    angles = torch.randn(NUM_TOKENS, case.half, device=DEVICE)
    return Rotation(angles.cos(), angles.sin(), is_interleaved)


def exact(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cache: LayerCache, rotation: Rotation, norm: HeadNorm | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys and values in float64, one after another."""
    wide = [None if weight is None else weight.double() for weight in norm[:2]] if norm else []
    slots = torch.arange(NUM_TOKENS, device=DEVICE)
    kept = LayerCache(
        *(torch.zeros(part.shape, dtype=torch.float64, device=DEVICE) for part in cache[:2] if part is not None)
    )
    turned = Rotation(rotation.cos.double(), rotation.sin.double(), rotation.is_interleaved)
    wide_norm = HeadNorm(*wide, *norm[2:]) if norm else None
    q = reference.rope_and_store(q.double(), k.double(), v.double(), KVTarget(kept, slots), turned, norm=wide_norm)
    return q, *(part.flatten(0, 1)[:NUM_TOKENS] for part in kept[:2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_equals_one_after_another(case: Case, kind: str | None, dtype: torch.dtype) -> None:
    for is_interleaved in (False, True):
        torch.manual_seed(0)
        (q, k, v), norm = heads_of(case, dtype), norm_of(kind, case, dtype)
        rotation, cache = rotation_of(case, is_interleaved=is_interleaved), cache_of(case, dtype)
        expected = exact(q.clone(), k.clone(), v, cache, rotation, norm)
        slots = torch.randperm(NUM_SLOTS, device=DEVICE)[:NUM_TOKENS]
        found = kernels.rope_and_store(q, k, v, KVTarget(cache, slots), rotation, norm=norm)
        stored = (cache.k.flatten(0, 1), cache.v.flatten(0, 1))
        tolerance = {"rtol": 2 * output_eps(dtype), "atol": 2e-6}
        torch.testing.assert_close(found.double(), expected[0], **tolerance)
        torch.testing.assert_close(stored[0][slots].double(), expected[1], **tolerance)
        assert torch.equal(stored[1][slots], v)
        others = [slot for slot in range(NUM_SLOTS) if slot not in slots.tolist()]
        assert all(bool((part[others] == 3).all()) for part in stored), "other slots are as they were"


@pytest.mark.parametrize("kv_cache_dtype", LARGEST, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_8_bit_caches(case: Case, dtype: torch.dtype, kv_cache_dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    q, k, v = heads_of(case, dtype)
    norm, rotation, cache = (
        norm_of("shared", case, dtype),
        rotation_of(case, is_interleaved=False),
        cache_of(case, kv_cache_dtype),
    )
    expected, slots = exact(q.clone(), k.clone(), v, cache, rotation, norm), torch.arange(NUM_TOKENS, device=DEVICE) + 5
    kernels.rope_and_store(q, k, v, KVTarget(cache, slots), rotation, norm=norm)
    assert cache.k_scale is not None
    assert cache.v_scale is not None
    pairs = ((cache.k, cache.k_scale, expected[1]), (cache.v, cache.v_scale, expected[2]))
    for numbers, scale, wanted in pairs:
        found = dequantize(numbers, scale, torch.float64).flatten(0, 1)[slots]
        # Half of a step: of the largest in int8, of each number itself in e4m3. The scale is rounded up to a float16.
        step = wanted.abs().amax(-1, keepdim=True) / 127 if kv_cache_dtype is torch.int8 else wanted.abs() / 8
        smallest = scale.flatten(0, 1)[slots].double().unsqueeze(-1) * 2.0**-9
        half = 0.5 * (1 + 2.0**-9) * step.maximum(smallest)
        assert bool(((found - wanted).abs() <= half + output_eps(dtype) * wanted.abs() + 1e-6).all())
    same = cache_of(case, kv_cache_dtype)
    reference.store_kv(v, v, LayerCache(same.v, same.v.clone(), same.v_scale, same.v_scale.clone()), slots)  # type: ignore[union-attr]
    for ours, theirs in ((cache.v, same.v), (cache.v_scale, same.v_scale)):
        assert torch.equal(*(part.view(torch.int8) for part in (ours, theirs))), (
            "values are the references', bit for bit"
        )  # type: ignore[union-attr]


def test_nan_reaches_the_scale_of_its_key_alone() -> None:
    case = CASES[0]
    q, k, v = heads_of(case, torch.float32)
    k[1, 1, 40] = torch.nan
    cache = cache_of(case, torch.int8)
    kernels.rope_and_store(
        q, k, v, KVTarget(cache, torch.arange(NUM_TOKENS, device=DEVICE)), rotation_of(case, is_interleaved=False)
    )
    assert cache.k_scale is not None
    assert cache.k_scale.flatten(0, 1)[:NUM_TOKENS].isnan().nonzero().tolist() == [[1, 1]]


def test_what_does_not_fit_is_refused() -> None:
    case = CASES[0]
    q, k, v = heads_of(case, torch.float32)
    cache, slots = cache_of(case, torch.float32), torch.arange(NUM_TOKENS, device=DEVICE)
    rotation, wide = rotation_of(case, is_interleaved=False), torch.ones(NUM_TOKENS, 33, device=DEVICE)
    refused = (
        (KVTarget(cache, slots[:2]), rotation, "slot_mapping"),
        (KVTarget(LayerCache(cache.k[..., :7], cache.v), slots), rotation, "cache.k"),
        (KVTarget(cache, slots), Rotation(wide, wide), "at most 32 pairs, got 33"),
    )
    for (target, turned, message), norm in itertools.product(refused, (None, HeadNorm(None, None, 1e-5))):
        with pytest.raises(ValueError, match=message):
            kernels.rope_and_store(q, k, v, target, turned, norm=norm)


def test_no_tokens() -> None:
    case = CASES[0]
    q, k, v = (part[:0] for part in heads_of(case, torch.float32))
    empty = torch.empty(0, case.half, device=DEVICE)
    target = KVTarget(cache_of(case, torch.float32), torch.empty(0, dtype=torch.int64, device=DEVICE))
    assert kernels.rope_and_store(q, k, v, target, Rotation(empty, empty)).shape == (0, *q.shape[1:])
