"""The plain data: ranges, positions, and the way through msgpack."""

from typing import Any

import msgspec
import pytest

from engine.request import Request, SamplingParams, ScheduledRequest, TokenDelta
from tests.engine.tiny_models import make_request


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", -1),
        ("min_tokens", 17),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -2),
        ("min_p", 1.5),
        ("seed", 2**63),
        ("repetition_penalty", 0.0),
        ("presence_penalty", 2.1),
        ("frequency_penalty", float("nan")),
        ("logit_bias", {1: 101.0}),
        ("stop", ("a",) * 17),
        ("stop", ("",)),
        ("logprobs", 21),
        ("prompt_logprobs", -1),
    ],
)
def test_out_of_range_values_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{field} must .*, got "):
        SamplingParams(**{field: value})


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(TypeError, match="temprature"):
        SamplingParams(temprature=1.0)  # type: ignore[call-arg]
    with pytest.raises(msgspec.ValidationError, match="temprature"):
        msgspec.json.decode(b'{"temprature": 1}', type=SamplingParams)


@pytest.mark.parametrize(
    ("start", "stop", "expected"), [(0, 2, [1, 2]), (1, 5, [2, 3, 4, 5]), (3, 4, [4]), (4, 5, [5]), (2, 2, [])]
)
def test_token_ids_run_over_prompt_and_output(start: int, stop: int, expected: list[int]) -> None:
    request = make_request("r", [1, 2, 3])
    request.output_token_ids = [4, 5]
    assert request.token_ids(start, stop) == expected


def test_a_step_samples_only_after_the_newest_token() -> None:
    request = make_request("r", [1, 2, 3, 4])
    assert not ScheduledRequest(request, 0, 3, [[0]]).samples
    assert ScheduledRequest(request, 3, 1, [[0]]).samples


def test_a_pending_token_counts_and_has_no_id() -> None:
    request = make_request("r", [1, 2, 3], max_tokens=3)
    request.output_token_ids, request.num_pending_tokens = [4], 1
    assert (request.num_tokens, request.num_known_tokens, request.num_output_tokens) == (5, 4, 2)
    assert request.token_ids(2, 5) == [3, 4]
    step = ScheduledRequest(request, 4, 1, [[0, 1]])
    assert (step.samples, step.has_pending_token) == (True, True)
    assert not ScheduledRequest(request, 3, 1, [[0]]).has_pending_token


@pytest.mark.parametrize(
    ("max_tokens", "num_known", "num_pending", "expected"),
    [(3, 2, 1, True), (3, 1, 1, False), (3, 2, 0, False), (0, 0, 0, False), (0, 0, 1, True)],
)
def test_who_is_ending(max_tokens: int, num_known: int, num_pending: int, expected: bool) -> None:
    request = make_request("r", [1], max_tokens=max_tokens)
    request.output_token_ids, request.num_pending_tokens = [4] * num_known, num_pending
    assert request.is_ending is expected


def test_prompt_positions_are_reported_once() -> None:
    request = make_request("r", [1] * 10, prompt_logprobs=0)
    assert ScheduledRequest(request, 0, 6, [[0]]).reported_places == range(6)
    assert ScheduledRequest(request, 6, 4, [[0]]).reported_places == range(6, 9)
    request.num_reported_prompt_logprobs = 8
    assert ScheduledRequest(request, 0, 10, [[0]]).reported_places == range(8, 9)
    assert len(ScheduledRequest(make_request("r", [1] * 10), 0, 6, [[0]]).reported_places) == 0


def test_requests_and_deltas_survive_msgpack() -> None:
    request = make_request("r", [1, 2], logit_bias={5: 1.5}, stop_token_ids=(7,), seed=-3)
    decoded = msgspec.msgpack.decode(msgspec.msgpack.encode(request), type=Request)
    assert decoded == request
    delta = TokenDelta("r", token_ids=[3])
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(delta), type=TokenDelta) == delta
