"""Times on a device: by its own events, over work that is launched as one graph, each time with cold caches."""

import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

FLUSH_BYTES = 1 << 28
"""Written before each run: more than any cache holds."""


class Device:
    """Where a piece runs: a GPU, or the CPU for a rehearsal.

    Args:
        is_rehearsal: on the CPU, at sizes that mean nothing.
    """

    def __init__(self, *, is_rehearsal: bool) -> None:
        self.is_rehearsal = is_rehearsal
        self.torch = torch.device("cpu") if is_rehearsal else torch.device("cuda", torch.cuda.current_device())

    def facts(self) -> dict[str, Any]:
        """The device, and the software that its figures depend on."""
        versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "python": platform.python_version()}
        if self.is_rehearsal:
            return {"device": "cpu", **versions}
        properties = torch.cuda.get_device_properties(self.torch)
        return {
            "device": properties.name,
            "memory_bytes": properties.total_memory,
            "num_processors": properties.multi_processor_count,
            "capability": list(torch.cuda.get_device_capability(self.torch)),
            **versions,
        }

    def synchronize(self) -> None:
        """Wait for what was launched."""
        if not self.is_rehearsal:
            torch.cuda.synchronize(self.torch)

    def median_s(self, run: Callable[[], Any], *, num_runs: int = 20) -> float:
        """The median time of `run`, whose launches must wait for nothing; compiled and warmed up before."""
        if self.is_rehearsal:
            return statistics.median(_host_s(run) for _ in range(2))
        replay, flush = _record(run), torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=self.torch)
        return statistics.median(_event_s(replay, flush) for _ in range(num_runs))


def _host_s(run: Callable[[], Any]) -> float:
    started_s = time.perf_counter()
    run()
    return time.perf_counter() - started_s


def _record(run: Callable[[], Any]) -> Callable[[], None]:
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    graph.replay()
    return graph.replay


def _event_s(replay: Callable[[], None], flush: torch.Tensor) -> float:
    """The flush keeps the device busy while the host launches what is timed, so that no gap is timed with it."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    flush.fill_(1)
    begin.record()
    replay()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000
