"""How far a result may be from the exact one, as a whole: ||out - exact|| / ||exact||."""

import torch
from torch import Tensor

LIMITS = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 6e-3}
"""Roundings of the format: of weights on their way into the second product, of the output, and little else."""


def assert_exact(out: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    """Every element was written, and together they are as near as the format goes."""
    assert out.dtype is dtype
    assert out.isfinite().all()
    error = float((out.double() - exact).norm() / exact.norm())
    assert error < LIMITS[dtype], f"relative error {error:.2e}"
