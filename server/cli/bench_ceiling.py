"""What this machine can do at most: measured, for a data sheet knows neither the virtual machine nor its neighbours."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np

from server.cli.machine import num_cores

BUFFER_BYTES = 1 << 28
"""Many times what a processor's caches hold."""
MATRIX_WIDTH = 1024
NUM_TRIALS = 7


class Ceilings(msgspec.Struct, frozen=True):
    """The most that was seen in several trials.

    Attributes:
        read_bytes_per_s: of main memory, all cores reading at once.
        float32_flops_per_s: multiplications and additions of a large matrix product (numpy's).
    """

    read_bytes_per_s: float
    float32_flops_per_s: float


def measure_ceilings(buffer_bytes: int = BUFFER_BYTES, matrix_width: int = MATRIX_WIDTH) -> Ceilings:
    """Read a large buffer with a thread a core, and multiply two matrices; each several times, and the best counts."""
    return Ceilings(_read_bytes_per_s(buffer_bytes), _flops_per_s(matrix_width))


def _read_bytes_per_s(buffer_bytes: int) -> float:
    """By the sum and by the maximum of the buffer: which of them keeps up with the memory depends on the processor."""
    buffer = np.ones(buffer_bytes // 4, dtype=np.float32)
    parts = np.array_split(buffer, num_cores())
    with ThreadPoolExecutor(len(parts)) as threads:
        seconds = [
            _best_s(lambda reduce=reduce: list(threads.map(reduce, parts)))  # type: ignore[misc]
            for reduce in (np.add.reduce, np.maximum.reduce)
        ]
    return buffer.nbytes / min(seconds)


def _flops_per_s(width: int) -> float:
    matrix = np.ones((width, width), dtype=np.float32)
    return 2 * width**3 / _best_s(lambda: matrix @ matrix)


def _best_s(run: Callable[[], object]) -> float:
    trials = []
    for _ in range(NUM_TRIALS):
        started_s = time.perf_counter()
        run()
        trials.append(time.perf_counter() - started_s)
    return min(trials)
