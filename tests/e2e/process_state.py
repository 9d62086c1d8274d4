"""What a process holds of its machine, to find what it does not give back."""

from typing import NamedTuple

import psutil


class ProcessState(NamedTuple):
    """One process at one time."""

    rss_bytes: int
    num_fds: int
    num_threads: int


def state_of(pid: int) -> ProcessState:
    """The state of process `pid` now."""
    process = psutil.Process(pid)
    with process.oneshot():
        return ProcessState(process.memory_info().rss, process.num_fds(), process.num_threads())
