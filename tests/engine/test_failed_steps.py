"""A step that fails ends the request that it fails at, and neither the others nor the engine."""

import copy
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


@pytest.mark.parametrize("error", [RuntimeError("CUDA error"), torch.OutOfMemoryError("2 GiB"), MemoryError()])
def test_a_step_that_fails_once_costs_nobody_anything(
    core: EngineCore, process: EngineProcess, error: Exception
) -> None:
    requests = [make_request(name, prompt(4, seed=i), ignore_eos=True, max_tokens=5) for i, name in enumerate("abc")]
    expected = {name: tokens(deltas) for name, deltas in run(core, [copy.deepcopy(one) for one in requests]).items()}
    for request in requests:
        core.add(request)
    let_fail(core, error)
    found = drain(process)
    assert {name: tokens([delta for delta in found if delta.request_id == name]) for name in "abc"} == expected


class FailingFor:
    """An attention backend whose kernel raises wherever one of some requests is in the step.

    Args:
        core: its runner's backend is wrapped.
        error: what is raised.
        guilty: request ids.
    """

    def __init__(self, core: EngineCore, error: Exception, *guilty: str) -> None:
        self._backend, self._error, self._core, self._guilty = core._runner.attention, error, core, set(guilty)
        core._runner.attention = self  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def forward(self, *args: Any) -> torch.Tensor:
        if self._guilty & {item.request.request_id for item in self._core._launched[-1].batch.scheduled}:
            raise self._error
        out: torch.Tensor = self._backend.forward(*args)
        return out


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("CUDA error"), "the engine failed while it computed this request"),
        (torch.OutOfMemoryError("2 GiB"), "the engine ran out of memory .* fewer tokens"),
        (MemoryError(), "the engine ran out of memory .* fewer tokens"),
    ],
)
@pytest.mark.parametrize("guilty", ["a", "d", "be", "abcdefg"])
@pytest.mark.parametrize("overlap", ["off", "on"])
def test_only_the_requests_that_it_fails_at_end(
    tiny_llama: Path, load: Load, overlap: str, guilty: str, error: Exception, expected: str
) -> None:
    core = load(tiny_llama, enable_overlap=overlap, max_num_batched_tokens=64, max_num_seqs=8)
    requests = [
        make_request(name, prompt(4 + i, seed=i), ignore_eos=True, max_tokens=6, prompt_logprobs=1)
        for i, name in enumerate("abcdefg")
    ]
    alone = run(core, [copy.deepcopy(one) for one in requests])
    process = EngineProcess(core, None)  # type: ignore[arg-type]  # nothing is sent here
    for request in requests:
        core.add(request)
    deltas = process._step()
    FailingFor(core, error, *guilty)
    deltas += drain(process)
    for name in "abcdefg":
        own = [delta for delta in deltas if delta.request_id == name]
        if name in guilty:
            assert own[-1].finish_reason is FinishReason.ERROR
            assert re.fullmatch(expected, own[-1].error or "")
        else:
            assert tokens(own) == tokens(alone[name])
            assert sum(len(delta.prompt_logprobs) for delta in own) == len(alone[name][0].prompt_logprobs)
    assert core.take_stats().num_used_blocks == 0


def test_a_pool_that_is_full_does_not_stop_the_search(tiny_llama: Path, load: Load) -> None:
    block_bytes = load(tiny_llama).info.geometry.bytes_per_block
    core = load(tiny_llama, max_num_batched_tokens=256, max_num_seqs=8, kv_cache_memory_bytes=35 * block_bytes)
    process = EngineProcess(core, None)  # type: ignore[arg-type]  # nothing is sent here
    for i, name in enumerate("abcdef"):
        core.add(make_request(name, prompt(40, seed=i), ignore_eos=True, max_tokens=20))
    deltas = process._step()
    FailingFor(core, RuntimeError("a kernel failed"), "b")
    deltas += drain(process)
    ends = {delta.request_id: delta.finish_reason for delta in deltas if delta.finish_reason}
    assert ends == {**dict.fromkeys("acdef", FinishReason.LENGTH), "b": FinishReason.ERROR}


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
