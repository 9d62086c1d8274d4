"""Keys and values in 8 bits: scales, error bounds, zeros, and what must never become NaN."""

import math
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.kernels.quantization import FLOAT16_MAX, LARGEST, dequantize, quantize
from kvcache.storage import EIGHT_BIT_DTYPES, SCALE_DTYPE

FORMATS = pytest.mark.parametrize("dtype", LARGEST, ids=str)
INPUTS = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
FLOAT32_SLACK = 1 + 2.0**-20
"""For the float32 division and product around the rounding."""


def round_trip(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return dequantize(*quantize(x, dtype), torch.float64)


def next_float16(x: float) -> float:
    bits = struct.unpack("<H", struct.pack("<e", x))[0]
    return float(struct.unpack("<e", struct.pack("<H", bits + 1))[0])


def up_to_float16(x: float) -> float:
    nearest = float(struct.unpack("<e", struct.pack("<e", x))[0])
    return nearest if nearest >= x else next_float16(nearest)


def bound(x: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What the docstring of `quantize` promises."""
    steps = scale.double().unsqueeze(-1).expand_as(x)
    if dtype is torch.int8:
        return steps / 2
    return torch.maximum(x.double().abs() / 16, steps * 2.0**-10)


def test_the_storages_formats_are_the_kernels() -> None:
    assert set(LARGEST) == set(EIGHT_BIT_DTYPES)
    assert quantize(torch.ones(1, 2), torch.int8)[1].dtype is SCALE_DTYPE


def test_int8_by_hand() -> None:
    numbers, scale = quantize(
        torch.tensor([[0.0, 0.4, 0.5, 1.5, -2.6, 127.0], [0.0, 0.8, 1.0, 3.0, -5.2, -254.0]]), torch.int8
    )
    assert scale.tolist() == [1.0, 2.0]
    assert numbers.tolist() == [[0, 0, 0, 2, -3, 127], [0, 0, 0, 2, -3, -127]]


def test_e4m3_by_hand() -> None:
    numbers, scale = quantize(torch.tensor([[0.0, 1.0, 17.0, -18.9, 0.001, 448.0]]), torch.float8_e4m3fn)
    assert scale.tolist() == [1.0]
    # Three bits after the leading one: 16, 18, 20; numbers under 2^-6 come in steps of 2^-9.
    assert numbers.float().tolist() == [[0.0, 1.0, 16.0, -18.0, 0.001953125, 448.0]]


@FORMATS
@given(amax=st.floats(2.0**-12, 2.0**18))
def test_the_scale_is_amax_over_the_largest_number_rounded_up(dtype: torch.dtype, amax: float) -> None:
    x = torch.tensor([[0.0, -amax]], dtype=torch.float64)
    numbers, scale = quantize(x, dtype)
    assert scale.item() == up_to_float16(amax / LARGEST[dtype])
    assert numbers.double().abs().max() <= LARGEST[dtype]


@FORMATS
@given(values=st.lists(st.floats(-1e5, 1e5, width=32), min_size=1, max_size=40), power=st.integers(-60, 6))
def test_a_round_trip_stays_within_the_bound(dtype: torch.dtype, values: list[float], power: int) -> None:
    x = torch.tensor([values], dtype=torch.float64) * 2.0**power
    _, scale = quantize(x, dtype)
    error = (round_trip(x, dtype) - x).abs()
    assert (error <= bound(x, scale, dtype) * FLOAT32_SLACK).all()


@FORMATS
@pytest.mark.parametrize("given_dtype", INPUTS, ids=str)
def test_random_heads_of_every_input_dtype(dtype: torch.dtype, given_dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = (torch.randn(50, 3, 64) * 10).to(given_dtype)
    numbers, scale = quantize(x, dtype)
    assert numbers.shape == x.shape
    assert numbers.dtype is dtype
    assert scale.shape == (50, 3)
    error = (dequantize(numbers, scale, torch.float64) - x.double()).abs()
    assert (error <= bound(x, scale, dtype) * FLOAT32_SLACK).all()
    # A bound of zero numbers would hold too: the format is made use of to its end.
    assert (numbers.double().abs().amax(-1) >= 0.99 * LARGEST[dtype]).all()


@FORMATS
def test_what_came_back_comes_back_unchanged(dtype: torch.dtype) -> None:
    """Storing what was read changes no bit, as long as the largest number is the format's largest."""
    torch.manual_seed(0)
    x = torch.randn(20, 2, 32, dtype=torch.float64)
    x[..., 0] = LARGEST[dtype] / 64
    once = round_trip(x, dtype)
    assert torch.equal(round_trip(once, dtype), once)


@FORMATS
def test_zeros_are_zeros(dtype: torch.dtype) -> None:
    numbers, scale = quantize(torch.zeros(2, 3, 8), dtype)
    assert not numbers.double().any()
    assert not scale.any()
    assert not round_trip(torch.zeros(2, 3, 8), dtype).any()


@FORMATS
@pytest.mark.parametrize("given_dtype", INPUTS, ids=str)
def test_extremes_are_finite(dtype: torch.dtype, given_dtype: torch.dtype) -> None:
    limits = torch.finfo(given_dtype)
    x = torch.tensor([[limits.max, limits.min], [limits.tiny, 0.0], [limits.smallest_normal / 2, 1.0], [math.inf, 1.0]])
    back = round_trip(x.to(given_dtype), dtype)
    assert back.isfinite().all()
    assert (back.abs() <= FLOAT16_MAX * LARGEST[dtype]).all()
    assert back[2, 1] == pytest.approx(1.0, rel=2**-10)


@FORMATS
def test_nan_is_not_hidden(dtype: torch.dtype) -> None:
    back = round_trip(torch.tensor([[1.0, math.nan], [1.0, 2.0]]), dtype)
    assert back[0].isnan().all()
    assert back[1].isfinite().all()


@FORMATS
def test_every_vector_is_on_its_own(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(9, 4, 16)
    numbers, scale = quantize(x, dtype)
    for token, head in ((0, 0), (5, 3)):
        alone, alone_scale = quantize(x[token, head], dtype)
        assert torch.equal(alone.view(torch.int8), numbers[token, head].view(torch.int8))
        assert alone_scale == scale[token, head]


@FORMATS
def test_float16_scales_cost_next_to_nothing(dtype: torch.dtype) -> None:
    """The root mean square error is that of exact scales within 0.5%: wider scales would be bytes for nothing."""
    torch.manual_seed(0)
    x = torch.randn(20_000, 64, dtype=torch.float64)
    exact = x.abs().amax(-1, keepdim=True) / LARGEST[dtype]
    numbers = (x / exact).round() if dtype is torch.int8 else (x / exact).to(dtype).double()
    error, wanted = (round_trip(x, dtype) - x).norm(), (numbers * exact - x).norm()
    assert error / wanted == pytest.approx(1, abs=0.005)
