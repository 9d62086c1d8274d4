"""The ledger of a loaded engine: it adds up to the byte, and its phases to the wall time."""

import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from configs.cache import CacheSettings
from engine import memory
from engine.core import EngineCore
from engine.errors import KVCapacityError


def test_the_entries_sum_to_the_device(tiny_llama: Path, load: Callable[..., EngineCore]) -> None:
    ledger = load(tiny_llama).info.ledger
    named = ledger.weights_bytes + ledger.kv_cache_bytes + ledger.workspace_bytes + ledger.framework_bytes
    assert named + ledger.other_bytes + ledger.free_bytes + ledger.unaccounted_bytes == ledger.total_bytes
    assert ledger.total_bytes == psutil.virtual_memory().total
    assert ledger.workspace_bytes > 0


def test_the_phases_sum_to_the_time_since_the_process_began(tiny_llama: Path, load: Callable[..., EngineCore]) -> None:
    before_s = time.time()
    phases = load(tiny_llama).info.startup_s
    assert list(phases) == ["imports", "weights", "kernels", "rehearsal", "kv_cache"]
    ended_s = psutil.Process().create_time() + sum(phases.values())
    assert before_s <= ended_s <= time.time() + 0.05  # the system counts a process's birth in hundredths


def test_the_peak_is_what_was_alive_and_not_what_was_made() -> None:
    # In a process of its own, as an engine is: this one's heap has holes from the tests before, which are filled first.
    program = """
import torch
from engine import memory
with memory.peak_of(torch.device("cpu")) as peak:
    for _ in range(10):
        torch.ones(5_000_000)
print(peak.num_bytes)
"""
    printed = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert int(printed) == pytest.approx(20_000_000, rel=0.1)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="how malloc keeps memory is glibc's")
def test_what_a_step_has_freed_is_there_for_the_next_one_without_new_pages() -> None:
    program = """
import resource
import torch
from engine import memory
with memory.peak_of(torch.device("cpu")):
    pass
for number in range(20):
    torch.ones(1_000_000), torch.ones(2_000_000)
    if number == 4:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    printed = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert int(printed) < 1000, "a page is 4 KB: each round would take 2,900 of them"


def test_on_a_gpu_the_workspace_comes_out_of_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_and_total_bytes", lambda _: (1000, 2000))
    assert memory.kv_budget(CacheSettings(), torch.device("cuda")) == (900, True)
    assert memory.kv_budget(CacheSettings(), torch.device("cpu")) == (250, False)
    assert memory.kv_budget(CacheSettings(kv_cache_memory_bytes=77), torch.device("cuda")) == (77, False)


def test_a_step_that_does_not_fit_is_refused_with_the_remedy(
    tiny_llama: Path, load: Callable[..., EngineCore], monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine import rehearsal

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(rehearsal.Runner, "execute", fail)
    with pytest.raises(KVCapacityError, match="lower --max-num-batched-tokens or --max-num-seqs"):
        load(tiny_llama)
