"""CUDA graphs as engine/graphs.py needs them."""

from collections.abc import Callable

import torch
from torch import Tensor

from engine import memory
from engine.graphs import Recorded

NUM_WARM_UPS = 2
"""Kernels compile and libraries allocate at their first call, and neither may happen while a graph is recorded."""


class CudaCapture:
    """Records what a function launches on a GPU. All graphs share a memory pool, so they must not run at the same time.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, run: Callable[[], Tensor]) -> Recorded:
        """See Capture.record."""
        current, aside = torch.cuda.current_stream(self._device), torch.cuda.Stream(self._device)
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            for _ in range(NUM_WARM_UPS):
                run()
        current.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            output = run()
        return Recorded(graph.replay, output)

    def free_bytes(self) -> int:
        """See Capture.free_bytes."""
        free, _ = memory.free_and_total_bytes(self._device)
        return free
