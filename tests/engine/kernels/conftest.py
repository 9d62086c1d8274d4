"""The native kernels, or a skip that says why there are none; Triton set to interpret where there is no GPU."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from engine.kernels import cpu
from engine.kernels.build import load_library
from engine.kernels.cpu.library import native_library
from engine.kernels.levels import VARIABLE, wanted_levels
from tests.engine.kernels import triton_setup

triton_setup.prepare()


@pytest.fixture
def native() -> Callable[..., cpu.CpuKernels]:
    """native(dtype, num_threads=None) -> the kernels for that dtype."""

    def build(dtype: torch.dtype, num_threads: int | None = None) -> cpu.CpuKernels:
        if reasons := cpu.objections(torch.device("cpu"), dtype):
            pytest.skip("; ".join(reasons))
        return cpu.CpuKernels(dtype, num_threads)

    return build


@pytest.fixture(params=[level.name for level in wanted_levels()])
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Each level of this CPU in turn, or the one that the environment names: the kernels that a test asks for are its."""
    monkeypatch.setenv(VARIABLE, request.param)
    forget_library()
    yield request.param
    forget_library()


def forget_library() -> None:
    """The next kernels come from a library that is looked for, or compiled, anew."""
    load_library.cache_clear()
    native_library.cache_clear()


@pytest.fixture(autouse=True)
def _poisoned_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every torch.empty in these tests comes filled with NaN: what a kernel leaves unwritten shows."""
    empty = torch.empty

    def poisoned(*shape: Any, **options: Any) -> torch.Tensor:
        tensor = empty(*shape, **options)
        return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor

    monkeypatch.setattr(torch, "empty", poisoned)
