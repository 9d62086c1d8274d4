"""The native products of 8-bit integers against the reference: the same integers, sums within float32's rounding."""

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from checkpoints.cache import cache_folder
from engine.kernels import cpu, reference
from engine.kernels.int8 import dequantize_rows, quantize_weight, round_rows, turned_groups
from engine.quantization import GROUP_SIZE
from tests.engine.kernels.emulation import emulated_amx
from tests.engine.kernels.rounding import DTYPES, assert_within, output_eps, sum_eps

Native = Callable[[torch.dtype], cpu.CpuKernels]
Quantized = tuple[Tensor, Tensor]


@pytest.fixture(params=["native", "amx"])
def native(request: pytest.FixtureRequest, native: Native) -> Iterator[Native]:
    """Kernels as this CPU does it, and as one with AMX does."""
    if request.param == "native":
        yield native
        return
    with emulated_amx(cache_folder() / "kernels"):
        yield native


def exact_and_bound(
    x: Tensor, weight: Quantized, bias: Tensor | None, residual: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The product of the integers and scales in float64, and how far float32 sums of groups may be from it."""
    numbers, x_scale = round_rows(x)
    depth = x.shape[1]
    rows = (numbers.double() * x_scale.double().unsqueeze(-1)).flatten(1)[:, :depth]
    groups = weight[1].double().repeat_interleave(GROUP_SIZE, -1)[:, :depth]
    columns = weight[0].double()[:, :depth] * groups
    extra = [t.double() for t in (bias, residual) if t is not None]
    exact = rows @ columns.t() + sum(extra)
    magnitude = rows.abs() @ columns.abs().t() + sum(t.abs() for t in extra)
    return exact, sum_eps(weight[1].shape[1] + 4) * magnitude + output_eps(dtype) * exact.abs() * 1.01


def packed(kernels: cpu.CpuKernels, weight: Quantized, depth: int) -> Quantized:
    numbers, scale = (tensor.clone() for tensor in weight)
    kernels.pack_int8(numbers, scale, depth)
    return numbers, scale


def check(
    kernels: cpu.CpuKernels, shape: tuple[int, int, int], dtype: torch.dtype, *, has_bias: bool, has_residual: bool
) -> None:
    num_rows, width, depth = shape
    x, weight = torch.randn(num_rows, depth).to(dtype), quantize_weight(torch.randn(width, depth))
    bias = torch.randn(width).to(dtype) if has_bias else None
    residual = torch.randn(num_rows, width).to(dtype) if has_residual else None
    exact, bound = exact_and_bound(x, weight, bias, residual, dtype)
    assert_within(kernels.linear_int8(x, *packed(kernels, weight, depth), bias, residual), exact, bound)
    assert_within(reference.linear_int8(x, *weight, bias, residual), exact, bound)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_rows", [*range(1, 18), 31, 64, 130, 513])
def test_every_number_of_rows(num_rows: int, dtype: torch.dtype, native: Native) -> None:
    torch.manual_seed(num_rows)
    check(native(dtype), (num_rows, 96, 2 * GROUP_SIZE), dtype, has_bias=False, has_residual=False)


@pytest.mark.parametrize("dtype", DTYPES)
def test_odd_shapes(dtype: torch.dtype, native: Native) -> None:
    kernels = native(dtype)

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(
        num_rows=st.integers(1, 20),
        width=st.integers(1, 300),
        depth=st.integers(1, 300),
        has_bias=st.booleans(),
        has_residual=st.booleans(),
    )
    def check_shape(num_rows: int, width: int, depth: int, has_bias: bool, has_residual: bool) -> None:
        torch.manual_seed(depth)
        check(kernels, (num_rows, width, depth), dtype, has_bias=has_bias, has_residual=has_residual)

    check_shape()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("depth", [4, GROUP_SIZE - 1, GROUP_SIZE, 3 * GROUP_SIZE, 3 * GROUP_SIZE + 4])
def test_activations_become_the_same_integers(depth: int, dtype: torch.dtype, native: Native) -> None:
    """Rows of a weight that are 1 in one column and 0 elsewhere read what x was rounded to."""
    kernels = native(dtype)
    x = (torch.randn(200, depth) * torch.logspace(-20, 20, 200).unsqueeze(1)).to(dtype)
    x[0], x[1, 0], x[2] = 0, 1e-38, 2.0**-120
    groups = -(-depth // GROUP_SIZE)
    weight = torch.eye(depth).to(torch.int8), torch.ones(depth, groups, dtype=torch.bfloat16)
    weight = torch.nn.functional.pad(weight[0], (0, -depth % 4)), weight[1]
    numbers, scale = round_rows(x)
    expected = (numbers * scale.unsqueeze(-1)).flatten(1)[:, :depth].to(dtype)
    assert torch.equal(kernels.linear_int8(x, *packed(kernels, weight, depth)), expected)


@pytest.mark.parametrize("num_rows", [2, 18])
def test_the_extremes_are_summed_exactly(num_rows: int, native: Native) -> None:
    """The largest integers, all of one sign and of both: nothing saturates."""
    kernels, depth = native(torch.float32), 3 * GROUP_SIZE
    weight = torch.full((40, depth), 127, dtype=torch.int8), torch.ones(40, 3, dtype=torch.bfloat16)
    weight[0][1::2] = -127
    # Turned, a row that is 127 in the first column of a group, and 0 elsewhere, is 127 in all.
    x = torch.zeros(num_rows, depth)
    x[::2, ::GROUP_SIZE], x[1::2, ::GROUP_SIZE] = 127.0, -127.0
    product = kernels.linear_int8(x, *packed(kernels, weight, depth))
    signs = torch.tensor([1.0, -1.0])
    assert torch.equal(product, 127.0 * 127 * depth * signs.repeat(num_rows // 2).unsqueeze(1) * signs.repeat(20))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_does_not_depend_on_the_others(dtype: torch.dtype, native: Native) -> None:
    kernels = native(dtype)
    x, weight = torch.randn(130, 576).to(dtype), packed(kernels, quantize_weight(torch.randn(200, 576)), 576)
    together = kernels.linear_int8(x, *weight)
    for row in (0, 1, 64, 129):
        assert torch.equal(kernels.linear_int8(x[row : row + 1], *weight)[0], together[row])
    for num_rows in (7, 8, 15, 16, 17):
        assert torch.equal(kernels.linear_int8(x[:num_rows], *weight), together[:num_rows])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_wide_product_is_what_is_rounded_else(dtype: torch.dtype, native: Native) -> None:
    kernels = native(dtype)
    x, weight = torch.randn(9, 192).to(dtype), packed(kernels, quantize_weight(torch.randn(70, 192)), 192)
    wide = kernels.linear_int8(x, *weight, is_wide=True)
    assert wide.dtype is torch.float32
    assert torch.equal(wide.to(dtype), kernels.linear_int8(x, *weight))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_rows", [1, 3, 40])
def test_threads_do_not_change_the_result(num_rows: int, dtype: torch.dtype, native: Native) -> None:
    first = native(dtype)
    x, weight = torch.randn(num_rows, 576).to(dtype), packed(first, quantize_weight(torch.randn(500, 576)), 576)
    expected = first.linear_int8(x, *weight)
    for count in (1, 2, 3, 8):
        kernels = cpu.CpuKernels(dtype, num_threads=count)
        for _ in range(10):
            assert torch.equal(kernels.linear_int8(x, *weight), expected)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", [5, 70])
@pytest.mark.parametrize(("num_rows", "depth"), [(3, 72), (17, 2 * GROUP_SIZE)])
def test_what_is_not_finite_shows(num_rows: int, depth: int, bad: float, place: int, native: Native) -> None:
    kernels, weight = native(torch.float32), quantize_weight(torch.randn(40, depth))
    x = torch.randn(num_rows, depth)
    x[1, place] = bad
    for product in (kernels.linear_int8(x, *packed(kernels, weight, depth)), reference.linear_int8(x, *weight)):
        assert product[1].isnan().all()
        assert product[0].isfinite().all()
        assert product[2:].isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("depth", [37, 2 * GROUP_SIZE, 102])
@pytest.mark.parametrize("width", [1, 15, 16, 33, 100])
def test_rows_of_a_packed_weight_are_found_again(width: int, depth: int, dtype: torch.dtype, native: Native) -> None:
    kernels, weight = native(dtype), quantize_weight(torch.randn(width, depth))
    ids = torch.randint(0, width, (50,))
    expected = reference.gather_rows_int8(*weight, ids, depth, dtype)
    inside = packed(kernels, weight, depth)
    assert torch.equal(kernels.gather_rows_int8(*inside, ids, depth, dtype), expected)
    with pytest.raises(ValueError, match=f"row_ids: expected 0 to {width - 1}, got 0 to {width}"):
        kernels.gather_rows_int8(*inside, torch.tensor([0, width]), depth, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("depth", "count"), [(40, 4), (2 * GROUP_SIZE, 17)])
def test_every_group_of_rows_goes_with_its_own_weight(
    depth: int, count: int, dtype: torch.dtype, native: Native
) -> None:
    kernels, weight = native(dtype), quantize_weight(torch.randn(3, 70, depth))
    x, bias = torch.randn(count + 5, depth).to(dtype), torch.randn(3, 70).to(dtype)
    counts = torch.tensor([count, 0, 5])
    product = kernels.grouped_linear_int8(x, *packed(kernels, weight, depth), bias, counts)
    for group, rows in ((0, slice(0, count)), (2, slice(count, count + 5))):
        one = packed(kernels, (weight[0][group], weight[1][group]), depth)
        assert torch.equal(product[rows], kernels.linear_int8(x[rows], *one, bias[group]))
    torch.testing.assert_close(product, reference.grouped_linear_int8(x, *weight, bias, counts))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(7, 1), (50, 31), (40, 2 * GROUP_SIZE), (33, 102), (3, 20, 70)])
def test_weights_become_the_same_integers(shape: tuple[int, ...], dtype: torch.dtype, native: Native) -> None:
    weight = (torch.randn(shape) * torch.logspace(-20, 20, shape[-2]).unsqueeze(-1)).to(dtype)
    weight[..., 0, :], weight[..., 1, 0] = 0, 3e38
    for ours, expected in zip(native(dtype).quantize_weight(weight), quantize_weight(weight), strict=True):
        assert ours.shape == expected.shape
        assert torch.equal(ours, expected)


def test_a_weight_comes_back_within_half_a_step() -> None:
    depth, num_whole, half = 2 * GROUP_SIZE + 6, 2, GROUP_SIZE / 2
    weight = torch.randn(50, depth) * torch.logspace(-6, 6, 50).unsqueeze(1)
    numbers, scale = quantize_weight(weight)
    assert numbers.shape == (50, depth + 2)
    assert scale.shape == (50, 3)
    assert not numbers[:, depth:].any()
    assert numbers.abs().amax() <= 127
    turned = turned_groups(weight)
    turned[:, :num_whole] /= GROUP_SIZE
    steps = scale.float().unsqueeze(-1)
    integers = torch.nn.functional.pad(numbers.float(), (0, GROUP_SIZE - 8)).unflatten(-1, (3, GROUP_SIZE))
    assert ((integers * steps - turned).abs() <= steps * 0.5001).all()
    # Turned back, an error of half a step in each number of a group adds up to so many half steps at most.
    error = (dequantize_rows(numbers, scale, depth) - weight).abs()
    assert (error <= (half + 0.01) * scale.float().repeat_interleave(GROUP_SIZE, -1)[:, :depth]).all()


def test_turning_leaves_products_as_they_are() -> None:
    a, b = torch.randn(6, 192, dtype=torch.float64), torch.randn(7, 192, dtype=torch.float64)
    turned = turned_groups(a).flatten(1) @ turned_groups(b).flatten(1).t() / GROUP_SIZE
    torch.testing.assert_close(turned, a @ b.t())


def test_zeros_stay_zeros() -> None:
    numbers, scale = quantize_weight(torch.zeros(3, 40))
    assert not numbers.any()
    assert not reference.linear_int8(torch.zeros(2, 40), numbers, scale).any()


def test_no_rows(native: Native) -> None:
    kernels, weight = native(torch.float32), quantize_weight(torch.randn(4, 8))
    assert kernels.linear_int8(torch.zeros(0, 8), *weight).shape == (0, 4)
    assert reference.linear_int8(torch.zeros(0, 8), *weight).shape == (0, 4)


def test_what_does_not_fit_is_refused(native: Native) -> None:
    kernels = native(torch.float32)
    x, (weight, scale) = torch.zeros(2, 100), quantize_weight(torch.zeros(4, 100))
    with pytest.raises(ValueError, match=r"quantized\.weight: expected contiguous torch\.int8 \[4, 100\]"):
        kernels.linear_int8(x, quantize_weight(torch.zeros(4, 104))[0], scale)
    with pytest.raises(ValueError, match=r"quantized\.weight"):
        kernels.linear_int8(x, weight.float(), scale)
    with pytest.raises(ValueError, match=r"quantized\.weight"):
        kernels.linear_int8(x, torch.zeros(100, 4, dtype=torch.int8).t(), scale)
    with pytest.raises(ValueError, match=r"quantized\.scale: expected contiguous torch\.bfloat16 \[4, 2\]"):
        kernels.linear_int8(x, weight, scale.float())
    with pytest.raises(ValueError, match=r"quantized\.scale"):
        kernels.linear_int8(x, weight, scale[:, :1])
    with pytest.raises(ValueError, match="x: expected"):
        kernels.linear_int8(x.double(), weight, scale)
    with pytest.raises(ValueError, match="bias"):
        kernels.linear_int8(x, weight, scale, torch.zeros(5))
    with pytest.raises(ValueError, match="residual"):
        kernels.linear_int8(x, weight, scale, None, torch.zeros(4, 2))
    with pytest.raises(ValueError, match="weight: expected"):
        kernels.quantize_weight(torch.zeros(4, 100).bfloat16())
    with pytest.raises(ValueError, match="weight: expected"):
        kernels.quantize_weight(torch.zeros(100, 4).t())
    with pytest.raises(ValueError, match="dtype: expected"):
        kernels.gather_rows_int8(weight, scale, torch.tensor([0]), 100, torch.float16)
    with pytest.raises(ValueError, match=r"quantized\.weight"):
        kernels.pack_int8(weight, scale, 96)
