"""Triton's norms, activations, rope, cache write and products of experts at sizes that serve, against float64."""

import pytest
import torch

from engine.kernels import reference
from engine.kernels.base import HeadNorm, KVTarget, Rotation
from engine.models.spec import Activation
from kvcache.storage import LayerCache
from tests.gpu.exactness import assert_exact

pytest.importorskip("triton")

DTYPES = [torch.bfloat16, torch.float16, torch.float32]


@pytest.fixture
def kernels():  # type: ignore[no-untyped-def]
    from engine.kernels.triton import kernels

    return kernels


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [576, 4096, 8192])
def test_norms(width: int, dtype: torch.dtype, gpu: torch.device, kernels) -> None:  # type: ignore[no-untyped-def]
    x, weight, bias = (torch.randn(*shape, device=gpu).to(dtype) for shape in ((257, width), (width,), (width,)))
    for name, given in (("rms_norm", [weight]), ("layer_norm", [weight, bias])):
        exact = getattr(reference, name)(x.double(), *(w.double() for w in given), 1e-5)
        assert_exact(getattr(kernels, name)(x, *given, 1e-5), exact, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", [Activation.SILU, Activation.GELU, Activation.GELU_TANH], ids=str)
def test_gated_activations(activation: Activation, dtype: torch.dtype, gpu: torch.device, kernels) -> None:  # type: ignore[no-untyped-def]
    gate_up = torch.randn(257, 2 * 14336, device=gpu).to(dtype)
    exact = reference.activate_and_multiply(gate_up.double(), activation)
    assert_exact(kernels.activate_and_multiply(gate_up, activation), exact, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("is_interleaved", [False, True])
def test_rope_and_cache_write(is_interleaved: bool, dtype: torch.dtype, gpu: torch.device, kernels) -> None:  # type: ignore[no-untyped-def]
    num_tokens, num_kv_heads, head_dim = 1000, 8, 128
    k, v = (torch.randn(num_tokens, num_kv_heads, head_dim, device=gpu).to(dtype) for _ in range(2))
    angles = torch.randn(num_tokens, head_dim // 2, device=gpu)
    exact = k.double()
    reference.apply_rope(exact, angles.cos().double(), angles.sin().double(), is_interleaved=is_interleaved)
    kernels.apply_rope(k, angles.cos(), angles.sin(), is_interleaved=is_interleaved)
    assert_exact(k, exact, dtype)
    slots = torch.randperm(2048, device=gpu)[:num_tokens]
    caches = [torch.full((128, 16, num_kv_heads, head_dim), torch.nan, dtype=dtype, device=gpu) for _ in range(2)]
    kernels.store_kv(k, v, LayerCache(*caches), slots)
    for cache, stored in zip(caches, (k, v), strict=True):
        assert torch.equal(cache.flatten(0, 1)[slots], stored)
        assert cache.isnan().sum() == (2048 - num_tokens) * num_kv_heads * head_dim


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("has_norm", [True, False])
def test_norm_rope_and_cache_write_in_one(has_norm: bool, dtype: torch.dtype, gpu: torch.device, kernels) -> None:  # type: ignore[no-untyped-def]
    num_tokens, num_kv_heads, head_dim = 1000, 8, 128
    q, k, v = torch.randn(num_tokens, 48, head_dim, device=gpu).to(dtype).split([32, num_kv_heads, num_kv_heads], 1)
    weights = [torch.randn(head_dim, device=gpu).to(dtype) for _ in range(2)]
    norm = HeadNorm(*weights, 1e-6) if has_norm else None
    angles, slots = torch.randn(num_tokens, head_dim // 2, device=gpu), torch.randperm(2048, device=gpu)[:num_tokens]
    caches = [torch.full((128, 16, num_kv_heads, head_dim), torch.nan, dtype=dtype, device=gpu) for _ in range(2)]
    exact_cache = LayerCache(
        *(torch.zeros(128, 16, num_kv_heads, head_dim, dtype=torch.float64, device=gpu) for _ in "kv")
    )
    exact = reference.rope_and_store(
        *(q.double(), k.double(), v.double(), KVTarget(exact_cache, slots)),
        Rotation(angles.cos().double(), angles.sin().double()),
        norm=HeadNorm(*(weight.double() for weight in weights), 1e-6) if has_norm else None,
    )
    target = KVTarget(LayerCache(*caches), slots)
    found = kernels.rope_and_store(q, k, v, target, Rotation(angles.cos(), angles.sin()), norm=norm)
    assert_exact(found, exact, dtype)
    assert_exact(caches[0].flatten(0, 1)[slots], exact_cache.k.flatten(0, 1)[slots], dtype)
    assert torch.equal(caches[1].flatten(0, 1)[slots], v)
    for cache in caches:
        assert cache.isnan().sum() == (2048 - num_tokens) * num_kv_heads * head_dim


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_experts(dtype: torch.dtype, gpu: torch.device, kernels) -> None:  # type: ignore[no-untyped-def]
    counts = torch.tensor([0, 300, 1, 17, 0, 64, 130, 5], device=gpu)
    x = torch.randn(int(counts.sum()), 1024, device=gpu).to(dtype)
    weight = torch.randn(len(counts), 768, 1024, device=gpu).to(dtype)
    exact = reference.grouped_linear(x.double(), weight.double(), None, counts)
    assert_exact(kernels.grouped_linear(x, weight, None, counts), exact, dtype)
