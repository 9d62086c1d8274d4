"""Attention over an 8-bit cache is attention over what that cache holds."""

from typing import Any

import pytest
import torch

from engine.kernels import reference
from engine.kernels.quantization import LARGEST
from kvcache.storage import LayerCache
from tests.engine.attention.eight_bit import dequantized, quantized
from tests.engine.attention.naive_attention import Case, Shape, make_case, naive_attention

RAGGED = ([1, 7, 1, 5, 1, 7], [19, 7, 17, 12, 3, 30])
FORMATS = pytest.mark.parametrize("kv_cache_dtype", LARGEST, ids=str)
SLOPES = torch.tensor([0.5, 0.25, 0.125, 0.5, 0.25, 0.125])
FEATURES: dict[str, dict[str, Any]] = {
    "plain": {},
    "window": {"sliding_window": 5},
    "soft-cap": {"softcap": 2.0},
    "ALiBi": {"alibi_slopes": SLOPES},
    "sinks": {"sinks": torch.arange(6.0)},
}


def attend(case: Case, q: torch.Tensor, cache: LayerCache, **features: Any) -> torch.Tensor:
    return reference.paged_attention(
        q,
        cache,
        case.block_tables,
        cu_seqlens_q=case.cu_seqlens_q,
        seq_lens=case.seq_lens,
        softmax_scale=0.3,
        **features,
    )


@FORMATS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("features", FEATURES.values(), ids=FEATURES)
def test_it_equals_attention_over_the_dequantized_cache(
    features: dict[str, Any], dtype: torch.dtype, kv_cache_dtype: torch.dtype
) -> None:
    case = make_case(Shape(v_head_dim=24), *RAGGED, dtype, unused=0)
    cache, wide = quantized(case, kv_cache_dtype), torch.promote_types(dtype, torch.float32)
    out = attend(case, case.q, cache, **features)
    assert out.dtype is dtype
    assert torch.equal(out, attend(case, case.q.to(wide), dequantized(cache, wide), **features).to(dtype))


@FORMATS
@pytest.mark.parametrize("num_kv_heads", [1, 2, 6])
def test_it_equals_naive_attention_over_the_dequantized_cache(num_kv_heads: int, kv_cache_dtype: torch.dtype) -> None:
    case = make_case(Shape(num_kv_heads=num_kv_heads, v_head_dim=24), *RAGGED, torch.float64, unused=0)
    cache = quantized(case, kv_cache_dtype)
    held = dequantized(cache, torch.float64)
    expected = naive_attention(case._replace(k_cache=held.k, v_cache=held.v), 0.3)
    torch.testing.assert_close(attend(case, case.q, cache), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("kv_cache_dtype", "allowed"), [(torch.int8, 0.02), (torch.float8_e4m3fn, 0.1)], ids=str)
def test_it_is_close_to_attention_over_the_exact_cache(kv_cache_dtype: torch.dtype, allowed: float) -> None:
    case = make_case(Shape(k_head_dim=64, v_head_dim=64), *RAGGED, torch.float64, unused=0)
    error = attend(case, case.q, quantized(case, kv_cache_dtype)) - naive_attention(case, 0.3)
    assert 0 < error.norm() / naive_attention(case, 0.3).norm() < allowed


@FORMATS
def test_storing_is_deterministic_and_touches_only_its_slots(kv_cache_dtype: torch.dtype) -> None:
    case = make_case(Shape(), *RAGGED, torch.bfloat16, unused=0)
    first, second = quantized(case, kv_cache_dtype), quantized(case, kv_cache_dtype)
    before = [tensor.view(torch.int8).clone() for tensor in first if tensor is not None]
    for one, other in zip(first, second, strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one.view(torch.int8), other.view(torch.int8))
    k, v = torch.ones(1, 2, 16), torch.ones(1, 2, 16)
    reference.store_kv(k, v, first, torch.tensor([6]))
    for tensor, old in zip(first, before, strict=True):
        assert tensor is not None
        changed = (tensor.view(torch.int8) != old).flatten(0, 1).flatten(1).any(1)
        assert changed.nonzero().flatten().tolist() in ([6], [])
    assert torch.equal(dequantized(first, torch.float32).k.flatten(0, 1)[6].round(decimals=2), k[0])
