"""Large tensors of the host to a device, through pinned buffers in turn: one is filled while the other is copied.

Tensors of a safetensors file are mapped, not read: filling a buffer is what reads the disk. So disk and bus work at the
same time, in the order of the file, and the host never holds more than the buffers.
"""

import itertools
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

BUFFER_BYTES = 1 << 26
NUM_BUFFERS = 2


class Buffer(Protocol):
    """Host memory that a device copies from on its own."""

    @property
    def data(self) -> Tensor:
        """[num_bytes] uint8."""
        ...

    def send(self, target: Tensor) -> None:
        """Begin to copy the first bytes to a tensor of the device, [at most num_bytes] uint8."""
        ...

    def wait(self) -> None:
        """Wait until the last copy is through; at once where there was none."""
        ...


class PinnedBuffer:
    """A buffer that a GPU copies from.

    Args:
        num_bytes: of it.
    """

    def __init__(self, num_bytes: int) -> None:
        self.data = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
        self._copied = torch.cuda.Event()

    def send(self, target: Tensor) -> None:
        """See Buffer.send."""
        target.copy_(self.data[: target.numel()], non_blocking=True)
        self._copied.record()

    def wait(self) -> None:
        """See Buffer.wait."""
        self._copied.synchronize()


class Stager:
    """Copies tensors to a device; on a CPU they stay what they are.

    Args:
        device: where to.
        buffers: to go through, of equal size; none on a CPU.
    """

    def __init__(self, device: torch.device, buffers: Sequence[Buffer] = ()) -> None:
        self._device = device
        self._buffers = itertools.cycle(buffers) if buffers else None

    def stage(self, tensor: Tensor) -> Tensor:
        """The same on the device, there in time for what is launched after this.

        Args:
            tensor: contiguous, on the host.
        """
        if self._buffers is None:
            return tensor
        staged = torch.empty(tensor.shape, dtype=tensor.dtype, device=self._device)
        source, target = (part.view(-1).view(torch.uint8) for part in (tensor, staged))
        start = 0
        while start < len(source):
            buffer = next(self._buffers)
            stop = min(start + len(buffer.data), len(source))
            buffer.wait()
            buffer.data[: stop - start].copy_(source[start:stop])
            buffer.send(target[start:stop])
            start = stop
        return staged


def build_stager(device: torch.device) -> Stager:
    """A stager with what it needs on `device`."""
    buffers = [PinnedBuffer(BUFFER_BYTES) for _ in range(NUM_BUFFERS)] if device.type == "cuda" else []
    return Stager(device, buffers)
