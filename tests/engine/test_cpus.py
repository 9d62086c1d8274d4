"""Affinity, cgroup limits of both versions, and the number of threads that follows."""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from engine import cpus
from engine.cpus import cgroup_limit, choose_num_threads, pin_process, usable_cpus
from engine.errors import ModelLoadError

needs_affinity = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system pins no threads")


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of /proc/self and /sys/fs/cgroup, of a process that may use 8 CPUs."""
    monkeypatch.setattr(cpus, "PROC", tmp_path)
    monkeypatch.setattr(cpus, "CGROUPS", tmp_path)
    monkeypatch.setattr(cpus, "usable_cpus", lambda: frozenset(range(8)))
    return tmp_path


@pytest.fixture
def _unpinned() -> Iterator[None]:
    before = os.sched_getaffinity(0)
    yield
    for task in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):  # the thread has ended meanwhile
            os.sched_setaffinity(int(task.name), before)


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_no_cgroup_is_no_limit(system: Path) -> None:
    assert cgroup_limit() is None
    assert choose_num_threads(None, 4) == 4


def test_version_2_takes_the_tightest_of_all_levels(system: Path) -> None:
    write(system, cgroup="0::/pod/box\n", cpu__max="max 100000\n")
    write(system / "pod", cpu__max="150000 100000\n")
    write(system / "pod" / "box", cpu__max="400000 100000\n")
    assert cgroup_limit() == 1.5
    assert choose_num_threads(None, 8) == 1


def test_version_1(system: Path) -> None:
    write(system, cgroup="4:memory:/box\n3:cpu,cpuacct:/box\n")
    write(system / "cpu", cpu__cfs_quota_us="-1\n", cpu__cfs_period_us="100000\n")
    assert cgroup_limit() is None
    write(system / "cpu" / "box", cpu__cfs_quota_us="300000\n", cpu__cfs_period_us="100000\n")
    assert cgroup_limit() == 3.0


def test_a_limit_below_one_core_leaves_one_thread(system: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(system, cgroup="0::/\n", cpu__max="50000 100000\n")
    with caplog.at_level(logging.INFO, logger="headcount.engine"):
        assert choose_num_threads(None, 8) == 1
    assert "num_threads: 1, for this process may use 8 CPUs, of which a cgroup leaves 0.5" in caplog.text


def test_affinity_counts_too(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus, "usable_cpus", lambda: frozenset({3, 5}))
    assert choose_num_threads(None, 8) == 2


def test_more_threads_than_cores_run_with_a_warning(system: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert choose_num_threads(8, 4) == 8
    assert not caplog.records
    assert choose_num_threads(9, 4) == 9
    assert "num_threads is 9, but this process may use 8 CPUs" in caplog.text


@needs_affinity
@pytest.mark.usefixtures("_unpinned")
def test_every_thread_is_pinned() -> None:
    first, stop, seen = min(usable_cpus()), threading.Event(), list[set[int]]()
    running = threading.Thread(target=lambda: (stop.wait(), seen.append(os.sched_getaffinity(0))))
    running.start()
    pin_process(frozenset({first}))
    later = threading.Thread(target=lambda: seen.append(os.sched_getaffinity(0)))
    later.start()
    stop.set()
    for thread in (running, later):
        thread.join()
    assert [*seen, os.sched_getaffinity(0)] == [{first}] * 3


@needs_affinity
def test_cpus_of_others_are_refused() -> None:
    before = usable_cpus()
    with pytest.raises(ModelLoadError, match=r"cpu_affinity must be among the CPUs .* got 60000 as well"):
        pin_process(before | {60_000})
    assert usable_cpus() == before
