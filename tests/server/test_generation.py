"""Choices: counted once each, timed from their arrival, ended however they are left."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.errors import EngineUnavailableError, StepFailedError
from engine.request import FinishReason, Request, SamplingParams
from server.generation import Choice, run_choices, usage_of
from server.text_assembler import TextAssembler
from tests.server.fake_engine import OUTPUT, FakeServer, deltas_of, encode
from tests.server.stand_ins import SMOLLM2

pytestmark = pytest.mark.anyio


def make_choices(server: FakeServer, number: int) -> list[Choice]:
    model = server.state.models["tiny"]
    choices = []
    for index in range(number):
        params = SamplingParams(max_tokens=50)
        request = Request(request_id=f"r{index}", prompt_token_ids=[1, 2, 3], sampling_params=params)
        assembler = TextAssembler(model.tokenizer, [1], params, skip_special_tokens=True, include_stop=False)
        choices.append(Choice(index, model, request, assembler, server.state.metrics))
    return choices


@pytest.mark.parametrize("number", [1, 2, 5])
async def test_every_choice_runs_to_its_end(tmp_path: Path, number: int) -> None:
    server = FakeServer(tmp_path)
    choices = make_choices(server, number)
    texts = dict.fromkeys(range(number), "")
    finished = []
    async for choice, piece in run_choices(choices):
        texts[choice.index] += piece.text
        if piece.finish_reason is not None:
            finished.append(choice.index)
    assert texts == dict.fromkeys(range(number), OUTPUT)
    assert sorted(finished) == list(range(number))
    assert server.engine.aborted == []
    assert server.metric('headcount_requests_total{finish_reason="stop",model_name="tiny"}') == number
    assert server.metric('headcount_time_to_first_token_seconds_count{model_name="tiny"}') == number
    num_tokens = len(encode(OUTPUT)) + 1
    assert server.metric('headcount_inter_token_latency_seconds_count{model_name="tiny"}') == number * (num_tokens - 1)
    assert server.metric('headcount_generation_tokens_sum{model_name="tiny"}') == number * num_tokens


@pytest.mark.parametrize("number", [1, 3])
async def test_choices_come_as_they_are_ready(tmp_path: Path, number: int) -> None:
    server = FakeServer(tmp_path, is_manual=True)
    choices = make_choices(server, number)
    events = run_choices(choices)
    for choice in reversed(choices):
        server.engine.step(choice.request.request_id)
        event = await asyncio.wait_for(anext(events), 1)
        assert event.choice is choice
    await events.aclose()
    assert len(server.engine.aborted) == number


@pytest.mark.parametrize("number", [1, 3])
async def test_leaving_early_ends_all(tmp_path: Path, number: int) -> None:
    server = FakeServer(tmp_path, is_manual=True)
    events = run_choices(make_choices(server, number))
    server.engine.step()
    await anext(events)
    await events.aclose()
    assert len(server.engine.aborted) == number
    assert server.metric('headcount_requests_total{finish_reason="abort",model_name="tiny"}') == number


async def test_a_choice_that_never_began_is_ended_and_counted_once(tmp_path: Path) -> None:
    server = FakeServer(tmp_path, is_manual=True)
    [choice] = make_choices(server, 1)
    choice.close()
    choice.close()
    assert server.engine.aborted == ["r0"]
    assert server.metric('headcount_requests_total{finish_reason="abort",model_name="tiny"}') == 1
    assert [piece async for piece in choice.pieces()] == []


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"error": "x"}, StepFailedError),
        ({"error": "x", "is_engine_lost": True}, EngineUnavailableError),
        ({}, StepFailedError),
    ],
)
async def test_an_engines_failure_is_raised(
    tmp_path: Path, number: int, fields: dict[str, Any], kind: type[Exception]
) -> None:
    server = FakeServer(tmp_path, is_manual=True)
    events = run_choices(make_choices(server, number))
    server.engine.send_all(finish_reason=FinishReason.ERROR, **fields)
    with pytest.raises(kind):
        await anext(events)
    assert server.metric('headcount_requests_total{finish_reason="error",model_name="tiny"}') >= 1


async def test_usage_counts_each_prompt_once(tmp_path: Path) -> None:
    server = FakeServer(tmp_path, lambda request: deltas_of(request, [5, 6], cached=2))
    choices = make_choices(server, 4)
    async for _ in run_choices(choices):
        pass
    usage = usage_of(choices, num_choices_per_prompt=2, geometry=SMOLLM2)
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (6, 8, 14)
    assert usage.prompt_tokens_details.cached_tokens == 4
    assert usage.kv_receipt is msgspec.UNSET
