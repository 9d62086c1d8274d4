"""PyTorch's threads, out of the way while native kernels compute."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def torch_threads(num_threads: int | None) -> Iterator[None]:
    """PyTorch has so many threads in this block, and as many as before behind it; None: nothing changes.

    After each parallel operation PyTorch's threads spin for milliseconds, in the way of the native kernels' own threads
    that come next.
    """
    before = torch.get_num_threads()
    if num_threads in (None, before):
        yield
        return
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
