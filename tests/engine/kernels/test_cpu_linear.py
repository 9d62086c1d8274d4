"""linear against the exact product: as this CPU does it, with pairs of columns as AVX512-BF16 does, and by tiles as AMX does."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from checkpoints.cache import cache_folder
from engine.kernels import cpu
from tests.engine.kernels.emulation import Emulated, emulated_amx, emulated_pairs, need_level
from tests.engine.kernels.rounding import DTYPES, assert_within, output_eps, sum_eps

Native = Callable[[torch.dtype], cpu.CpuKernels]


EMULATIONS: dict[str, Emulated] = {"pairs": emulated_pairs, "amx": emulated_amx}


@pytest.fixture(params=["native", *EMULATIONS])
def native(request: pytest.FixtureRequest, native: Native) -> Iterator[Native]:
    """Kernels as this CPU does it, and as one does that multiplies pairs or tiles."""
    if request.param == "native":
        yield native
        return
    with EMULATIONS[request.param](cache_folder() / "kernels"):
        yield native


def exact_and_bound(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The product in float64, and how far a float32 sum rounded to `dtype` may be from it."""
    extra = [t.double() for t in (bias, residual) if t is not None]
    exact = x.double() @ weight.double().t() + sum(extra)
    magnitude = x.double().abs() @ weight.double().abs().t() + sum(t.abs() for t in extra)
    return exact, sum_eps(x.shape[1] + 2) * magnitude + output_eps(dtype) * exact.abs() * 1.01


def packed(kernels: cpu.CpuKernels, weight: Tensor) -> Tensor:
    weight = weight.clone()
    kernels.pack(weight)
    return weight


def check(
    kernels: cpu.CpuKernels, shape: tuple[int, int, int], dtype: torch.dtype, *, has_bias: bool, has_residual: bool
) -> None:
    num_rows, width, depth = shape
    x, weight = torch.randn(num_rows, depth).to(dtype), torch.randn(width, depth).to(dtype)
    bias = torch.randn(width).to(dtype) if has_bias else None
    residual = torch.randn(num_rows, width).to(dtype) if has_residual else None
    product = kernels.linear(x, packed(kernels, weight), bias, residual)
    assert_within(product, *exact_and_bound(x, weight, bias, residual, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_rows", [*range(1, 18), 31, 32, 33, 49, 64, 130, 513])
def test_every_number_of_rows(num_rows: int, dtype: torch.dtype, native: Native) -> None:
    torch.manual_seed(num_rows)
    check(native(dtype), (num_rows, 96, 64), dtype, has_bias=False, has_residual=False)


@pytest.mark.parametrize("dtype", DTYPES)
def test_odd_shapes(dtype: torch.dtype, native: Native) -> None:
    kernels = native(dtype)

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(
        num_rows=st.integers(1, 20),
        width=st.integers(1, 300),
        depth=st.integers(1, 200),
        has_bias=st.booleans(),
        has_residual=st.booleans(),
    )
    def check_shape(num_rows: int, width: int, depth: int, has_bias: bool, has_residual: bool) -> None:
        torch.manual_seed(depth)
        check(kernels, (num_rows, width, depth), dtype, has_bias=has_bias, has_residual=has_residual)

    check_shape()


@pytest.mark.parametrize("num_rows", [1, 15, 16, 17, 32, 33, 49])
@pytest.mark.parametrize("width", [1, 31, 33, 100])
def test_whole_steps_of_columns(num_rows: int, width: int, native: Native) -> None:
    """Depths that AMX takes, and the edges of its tiles."""
    torch.manual_seed(width)
    for depth in (32, 96):
        check(native(torch.bfloat16), (num_rows, width, depth), torch.bfloat16, has_bias=True, has_residual=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_does_not_depend_on_the_others(dtype: torch.dtype, native: Native) -> None:
    kernels = native(dtype)
    x, weight = torch.randn(130, 576).to(dtype), packed(kernels, torch.randn(200, 576).to(dtype))
    together = kernels.linear(x, weight)
    for row in (0, 1, 64, 129):
        assert torch.equal(kernels.linear(x[row : row + 1], weight)[0], together[row])
    for num_rows in (7, 16, 17, 33):
        assert torch.equal(kernels.linear(x[:num_rows], weight), together[:num_rows])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 31, 32, 33, 100, 256])
def test_rows_of_a_packed_weight_are_found_again(width: int, dtype: torch.dtype, native: Native) -> None:
    kernels, weight = native(dtype), torch.randn(width, 37).to(dtype)
    ids = torch.randint(0, width, (50,))
    assert torch.equal(kernels.gather_rows(packed(kernels, weight), ids), weight[ids])
    with pytest.raises(ValueError, match=f"row_ids: expected 0 to {width - 1}, got 0 to {width}"):
        kernels.gather_rows(weight, torch.tensor([0, width]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_matrix_of_a_stack_is_packed(dtype: torch.dtype, native: Native) -> None:
    kernels, stack = native(dtype), torch.randn(3, 70, 20).to(dtype)
    whole = packed(kernels, stack)
    assert all(torch.equal(whole[i], packed(kernels, stack[i])) for i in range(3))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_rows", [1, 3, 9])
def test_threads_do_not_change_the_result(num_rows: int, dtype: torch.dtype, native: Native) -> None:
    expected_of = native(dtype)
    x, weight = torch.randn(num_rows, 576).to(dtype), packed(expected_of, torch.randn(500, 576).to(dtype))
    expected = expected_of.linear(x, weight)
    for count in (1, 2, 3, 8, 2):
        kernels = cpu.CpuKernels(dtype, num_threads=count)
        for _ in range(20):
            assert torch.equal(kernels.linear(x, weight), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_rows", [1, 40])
def test_nothing_to_sum_up_is_the_bias(num_rows: int, dtype: torch.dtype, native: Native) -> None:
    bias = torch.randn(70).to(dtype)
    out = native(dtype).linear(torch.empty(num_rows, 0, dtype=dtype), torch.empty(70, 0, dtype=dtype), bias)
    assert torch.equal(out, bias.expand(num_rows, -1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_rows", [1, 20])
def test_a_wide_product_is_what_is_rounded_else(num_rows: int, dtype: torch.dtype, native: Native) -> None:
    kernels = native(dtype)
    x, residual = torch.randn(num_rows, 96).to(dtype), torch.randn(num_rows, 70).to(dtype)
    weight, bias = packed(kernels, torch.randn(70, 96).to(dtype)), torch.randn(70).to(dtype)
    wide = kernels.linear(x, weight, bias, residual, is_wide=True)
    assert wide.dtype is torch.float32
    assert torch.equal(wide.to(dtype), kernels.linear(x, weight, bias, residual))


def test_callers_on_several_threads_get_their_own_results(native: Native) -> None:
    native(torch.float32)
    kernels = cpu.CpuKernels(torch.float32, num_threads=3)
    weight = packed(kernels, torch.randn(300, 64))
    inputs = [torch.randn(rows, 64) for rows in (1, 5, 40, 64)]
    expected = [kernels.linear(x, weight) for x in inputs]

    def repeat(place: int) -> bool:
        return all(torch.equal(kernels.linear(inputs[place], weight), expected[place]) for _ in range(200))

    with ThreadPoolExecutor(len(inputs)) as pool:
        assert all(pool.map(repeat, range(len(inputs))))


def is_same_in_a_fork(kernels: cpu.CpuKernels, x: Tensor, weight: Tensor, expected: Tensor) -> bool:
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(kernels.linear(x, weight), expected) else 1)
    return os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_has_helpers_of_its_own(native: Native) -> None:
    native(torch.float32)
    kernels = cpu.CpuKernels(torch.float32, num_threads=2)
    x, weight = torch.randn(5, 64), packed(kernels, torch.randn(300, 64))
    expected = kernels.linear(x, weight)
    for _ in range(20):
        time.sleep(0.001)  # the helper falls asleep, and the fork has the bell it waits for
        assert is_same_in_a_fork(kernels, x, weight, expected)
        kernels.linear(x, weight)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_has_no_job_of_another_thread(native: Native) -> None:
    """The outputs are small: PyTorch's OpenMP, which fills larger ones in these tests, does not survive such a fork."""
    native(torch.float32)
    kernels = cpu.CpuKernels(torch.float32, num_threads=2)
    x, weight = torch.randn(40, 64), packed(kernels, torch.randn(600, 64))
    expected = kernels.linear(x, weight)
    has_ended = threading.Event()

    def multiply() -> None:
        while not has_ended.is_set():
            kernels.linear(x, weight)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(multiply)
        try:
            for _ in range(20):
                assert is_same_in_a_fork(kernels, x, weight, expected)
        finally:
            has_ended.set()


def test_bfloat16_rounds_to_nearest_even_and_keeps_nan_and_infinity(native: Native) -> None:
    kernels = native(torch.bfloat16)
    values = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 3.4e38, torch.inf, -torch.inf, torch.nan, 0.0])
    # The value is the sum of two bfloat16, so the rounding is the kernel's own.
    high = values.bfloat16()
    low = torch.where(values.isfinite(), values - high.float(), 0).bfloat16()
    weight = packed(kernels, high.unsqueeze(1))
    out = kernels.linear(torch.ones(1, 1).bfloat16(), weight, residual=low.unsqueeze(0))[0]
    expected = (high.float() + low.float()).bfloat16()
    torch.testing.assert_close(out, expected, atol=0, rtol=0, equal_nan=True)


def test_no_rows(native: Native) -> None:
    out = native(torch.float32).linear(torch.zeros(0, 8), torch.zeros(4, 8))
    assert out.shape == (0, 4)


def test_what_does_not_fit_is_refused(native: Native) -> None:
    kernels = native(torch.float32)
    x, weight = torch.zeros(2, 8), torch.zeros(4, 8)
    with pytest.raises(ValueError, match=r"weight: expected contiguous torch\.float32 \[4, 8\]"):
        kernels.linear(x, torch.zeros(4, 9))
    with pytest.raises(ValueError, match="weight"):
        kernels.linear(x, torch.zeros(8, 4).t())
    with pytest.raises(ValueError, match="x: expected"):
        kernels.linear(x.double(), weight)
    with pytest.raises(ValueError, match="bias"):
        kernels.linear(x, weight, torch.zeros(5))
    with pytest.raises(ValueError, match="residual"):
        kernels.linear(x, weight, None, torch.zeros(4, 2))


@pytest.mark.parametrize(
    ("level", "emulated", "depth"), [("avx512_bf16", emulated_pairs, 577), ("amx", emulated_amx, 576)]
)
def test_the_emulation_is_what_the_instruction_does(
    level: str, emulated: Emulated, depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Down to what is lost when a sum in float32 becomes bfloat16."""
    need_level(level, monkeypatch)
    torch.manual_seed(0)
    x, weight = torch.randn(45, depth).bfloat16(), torch.randn(100, depth).bfloat16()

    def product(residual: Tensor | None = None) -> Tensor:
        kernels = cpu.CpuKernels(torch.bfloat16)
        return kernels.linear(x, packed(kernels, weight), residual=residual)

    whole = product()
    rest = product(-whole)
    with emulated(cache_folder() / "kernels"):
        assert torch.equal(product(), whole)
        assert torch.equal(product(-whole), rest)
