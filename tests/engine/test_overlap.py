"""Steps planned while one runs: everything comes out as without it (float64), and no block is left over."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.core import EngineCore
from engine.pending import PendingStep
from engine.request import FinishReason, Request, TokenDelta
from engine.runner import Runner
from tests.engine.parity.test_pressure import PreemptingAll, PreemptingSome
from tests.engine.tiny_models import VOCAB_SIZE, make_request, prompt, run, tokens

Load = Callable[..., EngineCore]
Limits = dict[str, Any]

ROOMY: Limits = {"max_num_batched_tokens": 16, "max_num_seqs": 4}
TIGHT: Limits = {
    "kv_cache_memory_bytes": 24 * 4 * 768,  # 24 blocks of 4 tokens
    "max_model_len": 80,
    "max_num_batched_tokens": 16,
    "max_num_seqs": 5,
    "kv_watermark": 0.0,
}


class Ending(NamedTuple):
    """What a request came to."""

    token_ids: list[int]
    reason: FinishReason | None
    stop_token_id: int | None
    logprobs: list[tuple[int, Any, list[int]]]
    prompt_logprobs: list[tuple[int, Any]]


def ending_of(deltas: list[TokenDelta]) -> Ending:
    return Ending(
        tokens(deltas),
        deltas[-1].finish_reason,
        deltas[-1].stop_token_id,
        [(p.token_id, pytest.approx(p.logprob), p.top_token_ids) for delta in deltas for p in delta.logprobs],
        [(p.token_id, pytest.approx(p.logprob)) for delta in deltas for p in delta.prompt_logprobs],
    )


@pytest.fixture(params=["roomy", "tight", "preempting-some", "preempting-all", "uncached"])
def both(
    request: pytest.FixtureRequest, tiny_llama: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[EngineCore, EngineCore]]:
    """The same engine with and without overlap."""
    schedulers = {"preempting-some": PreemptingSome, "preempting-all": PreemptingAll}
    limits = TIGHT if request.param == "tight" else ROOMY
    if request.param in schedulers:
        monkeypatch.setattr("engine.loading.Scheduler", schedulers[request.param])
        # Whoever starts from nothing in every step has to get through its prompt in one.
        limits = {**limits, "max_num_batched_tokens": 512}
    limits = {**limits, "enable_prefix_cache": request.param != "uncached"}
    yield load(tiny_llama, enable_overlap="off", **limits), load(tiny_llama, enable_overlap="on", **limits)


PARAMS = st.fixed_dictionaries(
    {"max_tokens": st.integers(0, 12), "seed": st.integers(0, 3), "ignore_eos": st.booleans()},
    optional={
        "temperature": st.sampled_from([0.7, 1.5]),
        "top_k": st.integers(1, 20),
        "top_p": st.sampled_from([0.5, 0.9]),
        "repetition_penalty": st.sampled_from([0.8, 1.4]),
        "frequency_penalty": st.sampled_from([-1.0, 0.6]),
        "presence_penalty": st.sampled_from([-0.5, 0.5]),
        "logit_bias": st.dictionaries(st.integers(0, VOCAB_SIZE - 1), st.floats(-5, 5), max_size=3),
        "stop_token_ids": st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=30).map(tuple),
        "logprobs": st.integers(0, 3),
        "prompt_logprobs": st.integers(0, 2),
    },
)


class Case(NamedTuple):
    """A request, when it comes, and when its client goes away."""

    num_prompt_tokens: int
    prompt_seed: int
    params: dict[str, Any]
    arrival_step: int
    min_tokens: int
    abort_after: int | None


CASES = st.builds(
    Case,
    st.integers(1, 30),
    st.integers(0, 2),
    PARAMS,
    st.integers(0, 8),
    st.integers(0, 6),
    st.none() | st.integers(0, 9),
)


def serve(core: EngineCore, cases: list[Case]) -> tuple[list[Ending], set[int]]:
    """What comes of each case, and which of them were aborted before they ended."""
    requests = [build(number, case) for number, case in enumerate(cases)]
    deltas: dict[str, list[TokenDelta]] = {request.request_id: [] for request in requests}
    aborted, step = set(), 0
    while core.has_requests or step <= max(case.arrival_step for case in cases):
        for number, (case, request) in enumerate(zip(cases, requests, strict=True)):
            if case.arrival_step == step:
                core.add(request)
            if case.abort_after is not None and case.arrival_step + case.abort_after == step:
                aborted |= {number} if core.abort(request.request_id) else set()
        for delta in core.step():
            deltas[delta.request_id].append(delta)
        core.check_integrity()
        step += 1
    assert core.take_stats().num_used_blocks == 0
    return [ending_of(found) if found else Ending([], None, None, [], []) for found in deltas.values()], aborted


def build(number: int, case: Case) -> Request:
    params = {**case.params, "min_tokens": min(case.min_tokens, case.params["max_tokens"])}
    request = make_request(str(number), prompt(case.num_prompt_tokens, case.prompt_seed), **params)
    request.arrival_time_s = float(case.arrival_step)
    return request


def test_everything_comes_out_as_without_overlap(both: tuple[EngineCore, EngineCore]) -> None:
    @settings(max_examples=10, deadline=None)
    @given(st.lists(CASES, min_size=1, max_size=5))
    def check(cases: list[Case]) -> None:
        (expected, aborted), (found, aborted_too) = (serve(core, cases) for core in both)
        for number, (one, other) in enumerate(zip(expected, found, strict=True)):
            if number in aborted | aborted_too:
                # One of the two may have come further before its client went away.
                shorter, longer = sorted((one.token_ids, other.token_ids), key=len)
                assert longer[: len(shorter)] == shorter
            else:
                assert other == one

    check()


def test_the_next_step_is_launched_before_a_result_is_read(
    tiny_llama: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    core, events = load(tiny_llama, enable_overlap="on"), []
    launch, result = Runner.launch, PendingStep.result
    monkeypatch.setattr(Runner, "launch", lambda *args: (events.append("launch"), launch(*args))[1])
    monkeypatch.setattr(PendingStep, "result", lambda step: (events.append("result"), result(step))[1])
    run(core, [make_request("r", prompt(5), max_tokens=4, ignore_eos=True)])
    assert events == ["launch", "launch", "result", "launch", "result", "launch", "result", "result"]


def test_a_stop_token_costs_one_dropped_token(tiny_llama: Path, load: Load) -> None:
    plain, core = load(tiny_llama), load(tiny_llama, enable_overlap="on")
    free = tokens(run(plain, [make_request("free", prompt(8), ignore_eos=True)])["free"])
    place = free.index(free[5])
    request = make_request("r", prompt(8), ignore_eos=True, stop_token_ids=(free[5],))
    assert tokens(run(core, [request])["r"]) == free[: place + 1]
    stats = core.take_stats()
    assert stats.generation_tokens == place + 1
    assert stats.observations.step_tokens == [8, *[1] * (place + 1)]


def test_blocks_are_free_when_the_stop_token_is_read(tiny_llama: Path, load: Load) -> None:
    core = load(tiny_llama, enable_overlap="on", enable_prefix_cache=False)
    [first] = tokens(run(core, [make_request("free", prompt(8), max_tokens=1, ignore_eos=True)])["free"])
    core.add(make_request("r", prompt(8), ignore_eos=True, stop_token_ids=(first,)))
    assert core.step() == []
    assert core.take_stats().num_used_blocks == 2
    [delta] = core.step()
    assert delta.finish_reason is FinishReason.STOP
    assert core.take_stats().num_used_blocks == 0
    # The step that computes the dropped token still runs.
    assert core.has_requests
    assert core.step() == []
    assert not core.has_requests


@pytest.mark.parametrize("max_tokens", [0, 1, 5])
def test_the_last_token_by_number_is_followed_by_no_other(tiny_llama: Path, load: Load, max_tokens: int) -> None:
    core = load(tiny_llama, enable_overlap="on")
    [*_, last] = run(core, [make_request("r", prompt(8), max_tokens=max_tokens, ignore_eos=True)])["r"]
    assert last.finish_reason is FinishReason.LENGTH
    assert core.take_stats().observations.step_tokens == [8, *[1] * (max_tokens - 1)]


def test_the_longest_context_is_not_passed(tiny_llama: Path, load: Load) -> None:
    core = load(tiny_llama, enable_overlap="on", max_model_len=12)
    deltas = run(core, [make_request("r", prompt(8), max_tokens=4, ignore_eos=True)])["r"]
    assert (len(tokens(deltas)), deltas[-1].finish_reason) == (4, FinishReason.LENGTH)
    assert core.take_stats().observations.step_tokens == [8, 1, 1, 1]


@pytest.mark.parametrize("num_prompt_tokens", [9, 10, 11, 12])
def test_receipts_and_cached_prefixes_are_the_same(tiny_llama: Path, load: Load, num_prompt_tokens: int) -> None:
    found = []
    for overlap in ("off", "on"):
        core = load(tiny_llama, enable_overlap=overlap)
        request = make_request("first", prompt(num_prompt_tokens), max_tokens=7, ignore_eos=True)
        request.enable_kv_receipt = True
        deltas = run(core, [request])["first"]
        turn = [*request.prompt_token_ids, *request.output_token_ids, 5, 6]
        [*_, second] = run(core, [make_request("second", turn, max_tokens=2)])["second"]
        found.append(([delta.kv_receipt for delta in deltas], second.num_cached_tokens))
    assert found[0] == found[1]


def test_no_block_is_taken_from_anybody_while_one_is_coming_free(tiny_llama: Path, load: Load) -> None:
    """6 blocks: `a` ends as `b` needs its third one, and nobody else is left to give way."""
    limits = {**TIGHT, "kv_cache_memory_bytes": 6 * 4 * 768, "max_model_len": 16, "enable_prefix_cache": False}
    counts = []
    for overlap in ("off", "on"):
        core = load(tiny_llama, enable_overlap=overlap, **limits)
        first = make_request("a", prompt(12), max_tokens=2, ignore_eos=True, arrival_time_s=1.0)
        second = make_request("b", prompt(7, seed=1), max_tokens=8, ignore_eos=True, arrival_time_s=2.0)
        run(core, [first, second])
        counts.append(core.take_stats().preemptions)
    assert counts == [0, 0]
