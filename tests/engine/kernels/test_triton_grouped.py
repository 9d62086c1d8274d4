"""Triton's products of experts against the reference in float64."""

import pytest
import torch

from engine.kernels import reference
from tests.engine.kernels import triton_setup
from tests.engine.kernels.rounding import assert_within, sum_eps
from tests.engine.kernels.triton_setup import DEVICE, output_eps

kernels = triton_setup.import_kernels()

from engine.kernels.triton.grouped import tiles_of  # noqa: E402  only where Triton is


def test_tiles() -> None:
    groups, starts, ends = tiles_of(torch.tensor([3, 0, 5]), 8, 4)
    assert groups.tolist() == [0, 2, 2, 3, 3]
    assert starts[:3].tolist() == [0, 3, 7]
    assert ends.tolist() == [3, 3, 8]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize(
    ("counts", "depth", "width"),
    [([3, 0, 5], 48, 80), ([0, 0, 1], 64, 64), ([17, 33, 0, 1], 100, 7), ([200], 16, 130), ([0, 0], 8, 8)],
)
def test_grouped_linear(counts: list[int], depth: int, width: int, has_bias: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(sum(counts), depth).to(dtype), torch.randn(len(counts), width, depth).to(dtype)
    bias = torch.randn(len(counts), width).to(dtype) if has_bias else None
    given = [t if t is None else t.to(DEVICE) for t in (x, weight, bias, torch.tensor(counts))]
    out = kernels.grouped_linear(*given).cpu()
    exact, largest = (
        reference.grouped_linear(f(x.double()), f(weight.double()), b, torch.tensor(counts))
        for f, b in (
            (lambda t: t, None if bias is None else bias.double()),
            (torch.abs, None if bias is None else bias.double().abs()),
        )
    )
    assert_within(out, exact, output_eps(dtype) * exact.abs() * 1.01 + sum_eps(depth + 1) * largest)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="weight: expected"):
        kernels.grouped_linear(torch.zeros(3, 8), torch.zeros(2, 4, 7), None, torch.tensor([1, 2]))
