"""Norm, activations, rope and the cache write against their definitions in float64."""

from collections.abc import Callable

import pytest
import torch

from engine.kernels import cpu, reference
from engine.models.spec import Activation
from kvcache.storage import LayerCache
from tests.engine.kernels.rounding import DTYPES, FLOAT32_EPS, assert_within, output_eps, sum_eps

Native = Callable[[torch.dtype], cpu.CpuKernels]
SHAPES = [(1, 576), (3, 64), (130, 48), (2, 7), (9, 33), (200, 576)]
FLOORS = {Activation.GELU: 2 * FLOAT32_EPS, Activation.GELU_TANH: 1e-15}
"""1 + erf and 1 + tanh cancel: in PyTorch's float32 the one, in the float64 of the oracle the other."""


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_rms_norm(shape: tuple[int, int], dtype: torch.dtype, native: Native) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(shape).to(dtype), torch.randn(shape[1]).to(dtype)
    exact = reference.rms_norm(x.double(), weight.double(), 1e-5)
    bound = (output_eps(dtype) + sum_eps(shape[1])) * exact.abs() * 1.01
    assert_within(native(dtype).rms_norm(x, weight, 1e-5), exact, bound)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", [a for a in Activation if a is not Activation.CLAMPED_SWIGLU])
@pytest.mark.parametrize("shape", SHAPES)
def test_activations(shape: tuple[int, int], activation: Activation, dtype: torch.dtype, native: Native) -> None:
    torch.manual_seed(0)
    kernels, (num_rows, width) = native(dtype), shape
    gate_up = (8 * torch.randn(num_rows, 2 * width)).to(dtype)
    gate = gate_up[:, :width].contiguous()
    # e^u is off by |u| roundings of u, and |u| is below 88 where the result is not 0. PyTorch's own, which serves what
    # the kernels lack, rounds the gate before it multiplies.
    eps = 4 * output_eps(dtype) + 300 * FLOAT32_EPS
    largest = gate_up.double().abs().max() ** 2
    floor = FLOORS.get(activation, 1e-37) * largest
    for out, exact in (
        (kernels.activate_and_multiply(gate_up, activation), _gated(gate_up, activation)),
        (kernels.activate(gate, activation), reference.activate(gate.double(), activation)),
    ):
        assert_within(out, exact, eps * exact.abs() + floor)


def _gated(gate_up: torch.Tensor, activation: Activation) -> torch.Tensor:
    gate, up = gate_up.double().chunk(2, dim=-1)
    return reference.activate(gate, activation) * up


def test_clamped_swiglu(native: Native) -> None:
    torch.manual_seed(0)
    gate_up = 8 * torch.randn(5, 2 * 12)
    gate, up = gate_up[:, :12].clamp(max=7), gate_up[:, 12:].clamp(-7, 7)
    exact = (up + 1) * gate / (1 + torch.exp(-1.702 * gate))
    for kernels in (reference, native(torch.float32)):
        torch.testing.assert_close(kernels.activate_and_multiply(gate_up, Activation.CLAMPED_SWIGLU), exact)
    with pytest.raises(ValueError, match="gated only"):
        reference.activate(gate, Activation.CLAMPED_SWIGLU)


def test_silu_at_the_ends(native: Native) -> None:
    x = torch.tensor([[-torch.inf, -1e4, -100.0, -87.0, 0.0, 87.0, 100.0, 1e4, torch.nan]])
    out = native(torch.float32).activate(x, Activation.SILU)[0]
    assert out[1:4].abs().max() < 1e-34
    assert out[4:8].tolist() == [0.0, 87.0, 100.0, 1e4]
    assert out[8].isnan()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num_heads", "head_dim", "rotary_dim"), [(12, 64, 64), (1, 16, 8), (3, 24, 24), (2, 80, 32)])
def test_rope_turns_a_view_in_place(
    num_heads: int, head_dim: int, rotary_dim: int, dtype: torch.dtype, native: Native
) -> None:
    torch.manual_seed(0)
    num_tokens, extra = 21, 5
    angles = torch.randn(num_tokens, rotary_dim // 2)
    cos, sin = angles.cos(), angles.sin()
    rows = torch.randn(num_tokens, num_heads * head_dim + extra).to(dtype)
    before = rows.clone()
    view = rows[:, : num_heads * head_dim].unflatten(1, (num_heads, head_dim))
    exact = view.double()
    reference.apply_rope(exact, cos.double(), sin.double())
    bound = output_eps(dtype) * exact.abs() * 1.01 + 4 * FLOAT32_EPS * before.double().abs().max()
    native(dtype).apply_rope(view, cos, sin)
    assert_within(view, exact, bound)
    assert torch.equal(rows[:, num_heads * head_dim :], before[:, num_heads * head_dim :])


@pytest.mark.parametrize("dtype", DTYPES)
def test_store_kv_writes_its_slots_and_no_others(dtype: torch.dtype, native: Native) -> None:
    torch.manual_seed(0)
    num_tokens, slots = 19, torch.randperm(40)[:19]
    qkv = torch.randn(num_tokens, 4 * 8 + 2 * 8 + 2 * 6).to(dtype)
    k, v = qkv[:, 32:48].unflatten(1, (2, 8)), qkv[:, 48:].unflatten(1, (2, 6))
    caches = torch.zeros(10, 4, 2, 8, dtype=dtype), torch.zeros(10, 4, 2, 6, dtype=dtype)
    expected = [cache.clone() for cache in caches]
    reference.store_kv(k, v, LayerCache(*expected), slots)
    native(dtype).store_kv(k, v, LayerCache(*caches), slots)
    for cache, wanted in zip(caches, expected, strict=True):
        assert torch.equal(cache, wanted)


def test_what_does_not_fit_is_refused(native: Native) -> None:
    kernels = native(torch.float32)
    x, cos = torch.zeros(3, 2, 8), torch.zeros(3, 4)
    with pytest.raises(ValueError, match="weight"):
        kernels.rms_norm(torch.zeros(2, 8), torch.zeros(7), 1e-5)
    with pytest.raises(ValueError, match="x: expected"):
        kernels.rms_norm(torch.zeros(8, 2).t(), torch.zeros(8), 1e-5)
    with pytest.raises(ValueError, match=r"cos: expected contiguous torch\.float32"):
        kernels.apply_rope(x, cos.double(), cos)
    with pytest.raises(ValueError, match="sin"):
        kernels.apply_rope(x, cos, cos[:2])
    with pytest.raises(ValueError, match="cos: expected at most 4 columns"):
        kernels.apply_rope(x, torch.zeros(3, 5), torch.zeros(3, 5))
    with pytest.raises(ValueError, match="x: expected"):
        kernels.apply_rope(x.transpose(0, 1), cos, cos)
    cache = torch.zeros(4, 4, 2, 8)
    with pytest.raises(ValueError, match="slot_mapping"):
        kernels.store_kv(x, x, LayerCache(cache, cache), torch.zeros(2, dtype=torch.int64))
    slots = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"cache\.v"):
        kernels.store_kv(x, x, LayerCache(cache, cache[..., :7]), slots)
    with pytest.raises(ValueError, match=r"cache\.k_scale: expected where the cache has 8 bits"):
        kernels.store_kv(x, x, LayerCache(cache.to(torch.int8), cache.to(torch.int8)), slots)
    with pytest.raises(ValueError, match=r"k: expected one of torch\.float32"):
        kernels.store_kv(x.half(), x.half(), LayerCache(cache.half(), cache.half()), slots)
    with pytest.raises(ValueError, match="v: expected 3 tokens of 2 heads"):
        kernels.store_kv(x, x[:2], LayerCache(cache, cache), slots)
    with pytest.raises(ValueError, match="k: expected 3 dimensions"):
        kernels.store_kv(x[0], x, LayerCache(cache, cache), slots)
    with pytest.raises(ValueError, match=r"slot_mapping: expected .* on meta"):
        kernels.store_kv(x, x, LayerCache(cache, cache), slots.to("meta"))


def test_rows_that_do_not_fit_are_refused(native: Native) -> None:
    kernels = native(torch.float32)
    for activate in (kernels.activate, kernels.activate_and_multiply):
        for x in (
            torch.zeros(2, 8).double(),
            torch.zeros(8, 2).t(),
            torch.zeros(2, 3, 8),
            torch.zeros(2, 8, device="meta"),
        ):
            with pytest.raises(ValueError, match="x: expected"):
                activate(x, Activation.SILU)
    with pytest.raises(ValueError, match="x: expected rows of gate and up"):
        kernels.activate_and_multiply(torch.zeros(2, 7), Activation.SILU)
    x, cos = torch.zeros(3, 2, 8), torch.zeros(3, 4)
    for call in (
        lambda: kernels.apply_rope(torch.zeros(3, 8), cos, cos),
        lambda: kernels.apply_rope(x.bfloat16(), cos, cos),
        lambda: kernels.apply_rope(x, torch.zeros(4), cos),
        lambda: kernels.apply_rope(x, cos.to("meta"), cos),
        lambda: kernels.rms_norm(torch.zeros(2, 8).double(), torch.zeros(8).double(), 1e-5),
        lambda: kernels.rms_norm(torch.zeros(2, 8), torch.zeros(16)[::2], 1e-5),
    ):
        with pytest.raises(ValueError, match="expected"):
            call()
