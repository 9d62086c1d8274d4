"""Between host and device without waiting: what a step needs goes there in one copy, what it gives comes back beside the next.

On a GPU both ways go through pinned memory, which the device reads and writes on its own while the host goes on. PyTorch
keeps such a block from being used again until the copy is through. On a CPU there is nothing to copy.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]
TORCH_DTYPES = {"i": torch.int64, "f": torch.float64}
"""By NumPy's kind; both of 8 bytes, so that they can lie in one buffer."""


def pack(arrays: Sequence[Array]) -> Tensor:
    """The numbers of all arrays one after the other: [sum of their sizes] int64, floats by their bits."""
    return torch.from_numpy(np.concatenate([array.ravel().view(np.int64) for array in arrays]))


def unpack(packed: Tensor, arrays: Sequence[Array]) -> list[Tensor]:
    """Views of a packed buffer, each with the shape and dtype of its array."""
    parts = packed.split([array.size for array in arrays])
    return [
        part.view(TORCH_DTYPES[array.dtype.kind]).view(array.shape) for part, array in zip(parts, arrays, strict=True)
    ]


def to_device(arrays: Sequence[Array], device: torch.device) -> list[Tensor]:
    """Tensors with the contents of int64 and float64 arrays, in one copy that the host does not wait for.

    On a CPU they are the arrays themselves, unless an array is not contiguous.
    """
    if device.type == "cpu":
        return [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
    return unpack(send(pack(arrays), device), arrays)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on `device`, there in time for what is launched after this."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class Fetch:
    """Tensors on their way to the host, as they are after what has been launched so far.

    Args:
        tensors: all on one device.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._arrived: torch.cuda.Event | None = None
        self._tensors = list(tensors)
        if any(tensor.is_cuda for tensor in tensors):
            self._tensors = [_to_pinned(tensor) for tensor in tensors]
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def wait(self) -> list[Tensor]:
        """The tensors on the host. Waits for what was launched before the fetch, not for what came after."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._tensors


def _to_pinned(tensor: Tensor) -> Tensor:
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return pinned.copy_(tensor, non_blocking=True)
