"""How much memory there is, and who has it."""

import contextlib
import ctypes
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import torch

from configs.cache import CacheSettings
from engine.errors import KVCapacityError
from engine.info import MemoryLedger
from kvcache.geometry import KVGeometry

MAX_CPU_KV_BYTES = 1 << 30
"""What the KV pool takes on a CPU at most where no number is set: zeroing it is part of every start."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""malloc.h of glibc."""
EXACT_BLOCK_BYTES, USUAL_BLOCK_BYTES = 1 << 12, 1 << 25
"""The usual one is the largest that glibc itself comes to, after it has freed blocks of that size: what a step needs is
there again for the next step, without new pages."""
USUAL_TRIM_BYTES = 2 * USUAL_BLOCK_BYTES
"""As glibc itself would have it then; but who sets one of the two ends its own choice of both."""


def process_bytes(device: torch.device) -> int:
    """Memory of this process on `device`: resident on a CPU, reserved by PyTorch on a GPU."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    return psutil.Process().memory_info().rss


def free_and_total_bytes(device: torch.device) -> tuple[int, int]:
    """Memory of `device` that can still be taken, and all of it."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return free, total
    memory = psutil.virtual_memory()
    return memory.available, memory.total


class Peak:
    """What `peak_of` found.

    Attributes:
        num_bytes: most memory at a time beyond what was held before.
    """

    num_bytes = 0


@contextlib.contextmanager
def peak_of(device: torch.device) -> Iterator[Peak]:
    """Measure what the block of a `with` statement takes at most beyond what is held.

    On a CPU that is resident memory. While it is measured, the C library asks the system for every block of a page or
    more and gives it back at once: what it would keep for later is not in use, and how much that is differs by chance.
    Only holes that its heap has already are filled without asking, so the measurement is exact in a young process.
    """
    peak = Peak()
    release(device)
    set_block_threshold(EXACT_BLOCK_BYTES)
    reset_peak(device)
    held_bytes = process_bytes(device)
    try:
        yield peak
        peak.num_bytes = max(0, peak_bytes(device) - held_bytes)
    finally:
        set_block_threshold(USUAL_BLOCK_BYTES)
        release(device)


def release(device: torch.device) -> None:
    """Give back to the system what is not in use."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif (malloc_trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        malloc_trim(0)


def set_block_threshold(num_bytes: int) -> None:
    """Blocks of this size and more come from the system one by one, others from what was freed.

    That is glibc's; elsewhere nothing is done.
    """
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(M_MMAP_THRESHOLD, num_bytes)
        mallopt(M_TRIM_THRESHOLD, USUAL_TRIM_BYTES)


def reset_peak(device: torch.device) -> None:
    """Start a new measurement of `peak_bytes`."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    clear_refs = Path("/proc/self/clear_refs")
    if clear_refs.exists():
        clear_refs.write_text("5")


def peak_bytes(device: torch.device) -> int:
    """Most memory that this process had at once since `reset_peak`; on systems without /proc since its start."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class KVBudget(NamedTuple):
    """What the KV pool may take.

    Attributes:
        num_bytes: at most.
        is_shared: the workspace has to fit in it too.
    """

    num_bytes: int
    is_shared: bool


def kv_budget(settings: CacheSettings, device: torch.device) -> KVBudget:
    """A number where the settings have one; else a share of what is free, on a GPU for pool and workspace together."""
    if settings.kv_cache_memory_bytes:
        return KVBudget(settings.kv_cache_memory_bytes, is_shared=False)
    free, _ = free_and_total_bytes(device)
    if device.type == "cuda":
        return KVBudget(int(free * settings.gpu_memory_utilization), is_shared=True)
    return KVBudget(min(MAX_CPU_KV_BYTES, int(free * settings.cpu_memory_utilization)), is_shared=False)


def fit_context(
    geometry: KVGeometry, pool_bytes: int, longest: int, wanted: int | None, num_scheduled_tokens: int
) -> int:
    """The longest context that the KV pool can hold: as asked for, or what fits where nobody asked.

    Args:
        geometry: of the cache.
        pool_bytes: of the pool.
        longest: the model's own limit.
        wanted: max_model_len, where it is set.
        num_scheduled_tokens: that a step computes at most.

    Raises:
        KVCapacityError: that does not fit; the message has the bytes needed, those available, and what fits.
    """
    fits = geometry.longest_context_in(pool_bytes, num_scheduled_tokens)
    if fits >= (wanted or 1):
        return min(wanted or longest, fits)
    num_tokens = wanted or 1
    needed = geometry.num_blocks(num_tokens, num_scheduled_tokens) * geometry.bytes_per_block
    raise KVCapacityError(
        f"one request of {num_tokens} tokens needs {needed} bytes of KV cache, but {pool_bytes} are available; the longest"
        f" context that fits is {fits} tokens: lower --max-model-len to that, or raise --kv-cache-memory-bytes"
    )


class GraphMemory(NamedTuple):
    """What CUDA graphs take.

    Attributes:
        num_bytes: in all.
        driver_bytes: of that, what the driver keeps for itself and PyTorch does not know of.
    """

    num_bytes: int = 0
    driver_bytes: int = 0


class GraphMeter:
    """Measures what graphs take, from when it is made.

    Args:
        device: where they are.
        spare_bytes: taken for them before.
    """

    def __init__(self, device: torch.device, spare_bytes: int) -> None:
        self._device, self._spare_bytes = device, spare_bytes
        self._free_bytes, self._process_bytes = self._measure()

    def read(self) -> GraphMemory:
        """What has been taken since."""
        free_bytes, held_bytes = self._measure()
        taken_bytes = max(0, self._free_bytes - free_bytes)
        driver_bytes = max(0, taken_bytes - max(0, held_bytes - self._process_bytes))
        return GraphMemory(self._spare_bytes + taken_bytes, driver_bytes)

    def _measure(self) -> tuple[int, int]:
        release(self._device)
        return free_and_total_bytes(self._device)[0], process_bytes(self._device)


def build_ledger(
    device: torch.device,
    *,
    weights_bytes: int,
    kv_cache_bytes: int,
    workspace_bytes: int,
    framework_bytes: int,
    graphs: GraphMemory,
) -> MemoryLedger:
    """The device's memory by owner, as it is now.

    Args:
        device: whose memory.
        weights_bytes: of all parameters.
        kv_cache_bytes: of the KV storage.
        workspace_bytes: that the largest step takes beyond these: not in use now, and not free for others either.
        framework_bytes: that the process held before it loaded anything.
        graphs: what they take.
    """
    release(device)
    free, total = free_and_total_bytes(device)
    return MemoryLedger(
        weights_bytes=weights_bytes,
        kv_cache_bytes=kv_cache_bytes,
        workspace_bytes=workspace_bytes,
        framework_bytes=framework_bytes,
        free_bytes=free - workspace_bytes,
        total_bytes=total,
        other_bytes=max(0, total - free - process_bytes(device) - graphs.driver_bytes),
        graphs_bytes=graphs.num_bytes,
    )
