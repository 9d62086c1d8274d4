"""Tensors through small buffers whose copies come late: nothing is overwritten before it has arrived."""

import pytest
import torch
from torch import Tensor

from engine.staging import Stager, build_stager

CPU = torch.device("cpu")


class LateBuffer:
    """Copies when it is waited for, and not before."""

    def __init__(self, num_bytes: int) -> None:
        self.data = torch.zeros(num_bytes, dtype=torch.uint8)
        self._target: Tensor | None = None

    def send(self, target: Tensor) -> None:
        assert self._target is None, "its last copy is not through"
        self._target = target

    def wait(self) -> None:
        if self._target is not None:
            self._target.copy_(self.data[: self._target.numel()])
            self._target = None


@pytest.mark.parametrize("num_buffers", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_everything_arrives(num_buffers: int, dtype: torch.dtype) -> None:
    buffers = [LateBuffer(64) for _ in range(num_buffers)]
    stager = Stager(CPU, buffers)
    generator = torch.Generator().manual_seed(0)
    shapes = [(3,), (32,), (), (7, 11), (0, 4), (16, 4), (1,)]
    tensors = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    staged = [stager.stage(tensor) for tensor in tensors]
    for buffer in buffers:
        buffer.wait()
    for one, other in zip(staged, tensors, strict=True):
        assert one.dtype == dtype
        assert one.equal(other)


def test_on_a_cpu_nothing_is_copied() -> None:
    tensor = torch.arange(3)
    assert build_stager(CPU).stage(tensor) is tensor
