"""How far a kernel that adds up in float32 and rounds once may be from the exact result."""

import torch
from torch import Tensor

FLOAT32_EPS = 2.0**-24
"""Largest relative error of one rounding to float32."""

DTYPES = [torch.float32, torch.bfloat16]


def output_eps(dtype: torch.dtype) -> float:
    """Largest relative error of one rounding to `dtype`."""
    return torch.finfo(dtype).eps / 2


def sum_eps(num_terms: int) -> float:
    """Error of a float32 sum of products, relative to the sum of their magnitudes (Higham 2002, lemma 3.1)."""
    return (num_terms + 4) * FLOAT32_EPS


def assert_within(actual: Tensor, exact: Tensor, bound: Tensor) -> None:
    """|actual - exact| <= bound, element by element; NaN is never within."""
    assert actual.shape == exact.shape
    excess = (actual.double() - exact).abs() - bound
    assert bool((excess <= 0).all()), f"over the bound by up to {excess.max():.3e}"
