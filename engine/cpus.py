"""The CPUs that this process may use: its affinity, its cgroup's share of time, and how many threads go with them. No torch."""

import logging
import os
from pathlib import Path

import psutil

from configs.cpu_list import format_cpu_list
from engine.errors import ModelLoadError

PROC, CGROUPS = Path("/proc/self"), Path("/sys/fs/cgroup")

logger = logging.getLogger("headcount.engine")


def usable_cpus() -> frozenset[int]:
    """The CPUs that the system lets this process run on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(psutil.cpu_count() or 1))


def cgroup_limit() -> float | None:
    """CPUs' worth of time that the process' cgroups leave it, e.g. 1.5; None: no limit, or none that can be read."""
    limits = [limit for folder in _cgroup_folders() if (limit := _read_limit(folder)) is not None]
    return min(limits, default=None)


def pin_process(cpus: frozenset[int]) -> None:
    """Let all threads of this process, and those that they start, run on these CPUs only.

    Raises:
        ModelLoadError: the system has no way to, or the process may not use one of them.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise ModelLoadError("cpu_affinity: this system cannot pin threads to CPUs; leave it out")
    usable = usable_cpus()
    if missing := cpus - usable:
        raise ModelLoadError(
            f"cpu_affinity must be among the CPUs that this process may use, {format_cpu_list(usable)},"
            f" got {format_cpu_list(missing)} as well"
        )
    # A call without a thread's id concerns the calling thread alone.
    for task in (PROC / "task").iterdir():
        try:
            os.sched_setaffinity(int(task.name), cpus)
        except ProcessLookupError:
            continue  # the thread has ended meanwhile


def choose_num_threads(wanted: int | None, default: int) -> int:
    """How many threads share the work. The log says so where it is not what one would expect.

    Args:
        wanted: by the settings; taken as it is.
        default: PyTorch's own choice, which knows nothing of cgroups.
    """
    num_cpus, limit = len(usable_cpus()), cgroup_limit()
    # Threads beyond the limit would stop all of them in the middle of each period of the cgroup.
    available = num_cpus if limit is None else min(num_cpus, max(1, int(limit)))
    share = "1 CPU" if num_cpus == 1 else f"{num_cpus} CPUs"
    if limit is not None:
        share += f", of which a cgroup leaves {limit:g}"
    if wanted is None:
        chosen = min(default, available)
        if chosen < min(default, num_cpus):
            logger.info("num_threads: %d, for this process may use %s", chosen, share)
        return chosen
    if wanted > available:
        logger.warning(
            "num_threads is %d, but this process may use %s: threads will wait for one another", wanted, share
        )
    return wanted


def _cgroup_folders() -> list[Path]:
    """The folders that may limit this process: its own cgroup's and those above it, of version 1 or 2."""
    try:
        lines = (PROC / "cgroup").read_text().splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = CGROUPS / "cpu" if controllers else CGROUPS
        own = root / path.lstrip("/")
        folders += [folder for folder in (own, *own.parents) if folder.is_relative_to(root)]
    return folders


def _read_limit(folder: Path) -> float | None:
    """Quota over period: "150000 100000" in version 2's cpu.max, two files in version 1."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):
        return None  # no such file, or "max"
