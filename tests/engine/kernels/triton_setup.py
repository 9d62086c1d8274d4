"""Where Triton's kernels run in tests: on the GPU where there is one, else in Triton's interpreter."""

import os
from types import ModuleType

import pytest
import torch

from tests.engine.kernels import rounding

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def output_eps(dtype: torch.dtype) -> float:
    """Largest relative error of one rounding to `dtype`; the interpreter cuts bfloat16 off where a GPU rounds it."""
    is_cut = dtype is torch.bfloat16 and DEVICE.type == "cpu"
    return rounding.output_eps(dtype) * (2 if is_cut else 1)


def prepare() -> None:
    """Before anything imports Triton: without a GPU, what it compiles from then on is interpreted."""
    if DEVICE.type == "cpu":
        os.environ.setdefault("TRITON_INTERPRET", "1")


def import_kernels() -> ModuleType:
    """The kernels, or a skip of the whole test file that says why there are none."""
    pytest.importorskip("triton", reason="the package triton is not installed")
    if DEVICE.type == "cpu":
        _teach_interpreter_bfloat16()
    from engine.kernels.triton import kernels

    return kernels


def _teach_interpreter_bfloat16() -> None:
    """The interpreter keeps bfloat16 as the integers of its bits, and its matrix product multiplies those integers.

    Widened to float32 instead, which is exact, as the products on tensor cores are.
    """
    import triton.language as tl
    from triton.runtime import interpreter

    builder = interpreter.interpreter_builder
    if getattr(builder, "knows_bfloat16", False):
        return
    plain = builder.create_dot

    def create_dot(a, b, *others):  # type: ignore[no-untyped-def]
        a, b = (builder.create_fp_ext(x, tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b))
        return plain(a, b, *others)

    builder.create_dot, builder.knows_bfloat16 = create_dot, True
