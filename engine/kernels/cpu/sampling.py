"""Native draws of tokens: engine.kernels.base.SamplingKernels for float32 logits on the CPU."""

import torch
from torch import Tensor

from engine.kernels.cpu.library import native_library

THREADS_FROM_ROWS = 2
"""One row is done before a second thread has woken up."""


class CpuSampling:
    """engine.kernels.sampling in native code; src/sampling.c says how it does without a sort.

    Args:
        num_threads: that share the rows.

    Raises:
        KernelBuildError: there are no native kernels here.
    """

    def __init__(self, num_threads: int) -> None:
        library = native_library()
        self._num_threads = num_threads
        self._argmax, self._draw, self._draw_truncated = library.hc_argmax, library.hc_draw, library.hc_draw_truncated

    def most_probable(self, logits: Tensor) -> Tensor:
        """See sampling.most_probable.

        Raises:
            ValueError: logits are not contiguous float32 [num_rows, vocab_size].
        """
        num_rows, vocab_size = _check_rows(logits)
        out = torch.empty(num_rows, dtype=torch.int64)
        self._argmax(logits.data_ptr(), out.data_ptr(), num_rows, vocab_size, self._threads(num_rows))
        return out

    def draw(self, logits: Tensor, temperature: Tensor, uniform: Tensor) -> Tensor:
        """See sampling.draw.

        Raises:
            ValueError: a shape, dtype or stride does not fit.
            MemoryError: no room for the scratch.
        """
        num_rows, vocab_size = _check_rows(logits)
        _check("temperature", temperature, num_rows, torch.float32)
        _check("uniform", uniform, num_rows, torch.float64)
        out = torch.empty(num_rows, dtype=torch.int64)
        pointers = [tensor.data_ptr() for tensor in (logits, temperature, uniform, out)]
        if self._draw(*pointers, num_rows, vocab_size, self._threads(num_rows)):
            raise MemoryError(f"no scratch memory for draws from {vocab_size} tokens")
        return out

    def draw_truncated(
        self, logits: Tensor, temperature: Tensor, uniform: Tensor, *, top_k: Tensor, top_p: Tensor, min_p: Tensor
    ) -> Tensor:
        """See sampling.draw_truncated.

        Raises:
            ValueError: a shape, dtype or stride does not fit.
            MemoryError: no room for the scratch.
        """
        num_rows, vocab_size = _check_rows(logits)
        _check("uniform", uniform, num_rows, torch.float64)
        _check("top_k", top_k, num_rows, torch.int64)
        for name, numbers in (("temperature", temperature), ("top_p", top_p), ("min_p", min_p)):
            _check(name, numbers, num_rows, torch.float32)
        out = torch.empty(num_rows, dtype=torch.int64)
        tensors = (logits, temperature, uniform, top_k, top_p, min_p, out)
        pointers = [tensor.data_ptr() for tensor in tensors]
        if self._draw_truncated(*pointers, num_rows, vocab_size, self._threads(num_rows)):
            raise MemoryError(f"no scratch memory for draws from {vocab_size} tokens")
        return out

    def _threads(self, num_rows: int) -> int:
        return self._num_threads if num_rows >= THREADS_FROM_ROWS else 1


def _check_rows(logits: Tensor) -> tuple[int, int]:
    num_rows, vocab_size = logits.shape
    if logits.dtype is not torch.float32 or not logits.is_contiguous() or logits.device.type != "cpu" or not vocab_size:
        given = f"{logits.dtype} {list(logits.shape)} with strides {list(logits.stride())} on {logits.device}"
        raise ValueError(f"logits: expected contiguous float32 [num_rows, vocab_size] on the CPU, got {given}")
    return num_rows, vocab_size


def _check(name: str, tensor: Tensor, num_rows: int, dtype: torch.dtype) -> None:
    if tensor.shape != (num_rows,) or tensor.dtype is not dtype or not tensor.is_contiguous():
        given = f"{tensor.dtype} {list(tensor.shape)} with strides {list(tensor.stride())}"
        raise ValueError(f"{name}: expected contiguous {dtype} [{num_rows}], got {given}")
