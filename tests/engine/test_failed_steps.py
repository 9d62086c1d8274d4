"""A step that fails ends its requests, and neither the others nor the engine."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.core import EngineCore
from engine.process import EngineProcess
from engine.request import FinishReason, Request, RequestStatus, TokenDelta
from tests.engine.tiny_models import make_request, prompt, run, tokens

Load = Callable[..., EngineCore]


class FailingOnce:
    """An attention backend whose kernel raises at its second call, and runs as ever before and after.

    Args:
        backend: computes.
        error: what is raised.
    """

    def __init__(self, backend: Any, error: Exception) -> None:
        self._backend, self._error, self._num_calls = backend, error, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def forward(self, *args: Any) -> torch.Tensor:
        self._num_calls += 1
        if self._num_calls == 2:
            raise self._error
        out: torch.Tensor = self._backend.forward(*args)
        return out


def let_fail(core: EngineCore, error: Exception) -> None:
    core._runner.attention = FailingOnce(core._runner.attention, error)


def drain(process: EngineProcess) -> list[TokenDelta]:
    """All that comes of the requests that are in the engine."""
    deltas = []
    while process._core.has_requests:
        deltas += process._step()
        process._core.check_integrity()
    return deltas


def drop_from_steps(core: EngineCore, request: Request) -> None:
    """The next steps hold one token, and `request` comes last."""
    core._scheduler._settings = core._scheduler._settings.model_copy(update={"max_num_batched_tokens": 1})
    assert request.status is RequestStatus.RUNNING


@pytest.fixture(params=["off", "on"])
def core(request: pytest.FixtureRequest, tiny_llama: Path, load: Load) -> EngineCore:
    return load(tiny_llama, enable_overlap=request.param, max_num_batched_tokens=8, max_num_seqs=2)


@pytest.fixture
def process(core: EngineCore) -> EngineProcess:
    return EngineProcess(core, None)  # type: ignore[arg-type]  # nothing is sent here


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("CUDA error"), "the engine failed while it computed this request"),
        (torch.OutOfMemoryError("2 GiB"), "the engine ran out of memory .* fewer tokens"),
        (MemoryError(), "the engine ran out of memory .* fewer tokens"),
    ],
)
def test_its_requests_end_and_the_others_go_on(
    core: EngineCore, process: EngineProcess, error: Exception, expected: str
) -> None:
    for name in ("a", "b", "waiting"):
        core.add(make_request(name, prompt(4, seed=len(name)), ignore_eos=True, max_tokens=5))
    let_fail(core, error)
    failed = process._step()
    assert sorted(delta.request_id for delta in failed) == ["a", "b"]
    assert {delta.finish_reason for delta in failed} == {FinishReason.ERROR}
    assert all(re.fullmatch(expected, delta.error or "") for delta in failed)
    assert tokens(drain(process)) == tokens(run(core, [make_request("r", prompt(4, seed=7), ignore_eos=True)])["r"])[:5]


def test_a_running_request_that_is_not_in_the_step_goes_on(core: EngineCore, process: EngineProcess) -> None:
    alone = tokens(run(core, [make_request("alone", prompt(20, seed=1), ignore_eos=True, max_tokens=3)])["alone"])
    core._manager.clear_prefix_cache()
    early = make_request("early", prompt(6), ignore_eos=True, arrival_time_s=1.0)
    late = make_request("late", prompt(20, seed=1), ignore_eos=True, max_tokens=3, arrival_time_s=2.0)
    core.add(early)
    core.add(late)
    process._step()
    assert (early.num_computed_tokens, late.num_computed_tokens) == (6, 2)
    drop_from_steps(core, late)
    process._step()
    let_fail(core, RuntimeError("a kernel failed"))
    assert [delta.request_id for delta in process._step()] == ["early"]
    assert late.status is RequestStatus.RUNNING
    assert tokens(drain(process)) == alone


def test_a_fault_of_the_scheduling_ends_all(
    core: EngineCore, process: EngineProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "waiting"):
        core.add(make_request(name, prompt(4)))
    monkeypatch.setattr(core._scheduler, "schedule", lambda: 1 / 0)
    assert sorted(delta.request_id for delta in process._step()) == ["a", "b", "waiting"]
    assert not core.has_requests


def test_what_a_failed_step_wrote_is_found_by_nobody(core: EngineCore, process: EngineProcess) -> None:
    expected = tokens(run(core, [make_request("before", prompt(8), ignore_eos=True)])["before"])
    core._manager.clear_prefix_cache()
    core.add(make_request("a", prompt(8), ignore_eos=True))
    let_fail(core, RuntimeError("a kernel failed"))
    process._step()
    assert core.take_stats().num_cached_blocks == 0
    assert tokens(run(core, [make_request("after", prompt(8), ignore_eos=True)])["after"]) == expected
