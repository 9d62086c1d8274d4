"""The wire's fields become SamplingParams, or a 400 that names the field."""

from typing import Any, cast

import pytest
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from checkpoints.errors import CheckpointError
from engine.errors import EngineUnavailableError
from engine.request import SamplingParams
from server.errors import APIError, from_validation
from server.protocol.completions import CompletionBody
from server.sampling import build_sampling_params, ready_info
from server.served_model import GenerationDefaults
from tests.server.stand_ins import FakeClient, FakeModel, make_info


def build(
    defaults: dict[str, Any] | None = None, choice_idx: int = 0, max_tokens: int = 16, **fields: Any
) -> SamplingParams:
    given = {"model": "tiny", "prompt": "x", **fields}
    try:
        body = CompletionBody.model_validate(given)
    except ValidationError as error:
        problems = [{**problem, "loc": ("body", *problem["loc"])} for problem in error.errors()]
        raise from_validation(RequestValidationError(problems, body=given), model=CompletionBody) from None
    return build_sampling_params(
        body,
        GenerationDefaults(defaults or {}),
        max_tokens=max_tokens,
        logprobs=body.logprobs,
        prompt_logprobs=body.prompt_logprobs,
        choice_idx=choice_idx,
    )


def test_nothing_asked_for_means_openais_defaults() -> None:
    assert build() == SamplingParams(max_tokens=16)


def test_every_field_arrives() -> None:
    given: dict[str, Any] = {
        "min_tokens": 2,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
        "min_p": 0.1,
        "seed": 5,
        "repetition_penalty": 1.2,
        "presence_penalty": 0.3,
        "frequency_penalty": -0.4,
        "stop_token_ids": [3, 4],
        "ignore_eos": True,
        "logprobs": 3,
        "prompt_logprobs": 2,
    }
    expected = {**given, "stop_token_ids": (3, 4), "stop": ("a", "b"), "logit_bias": {50: -1.5}}
    params = build(**given, stop=["a", "b"], logit_bias={"50": -1.5})
    assert params == SamplingParams(max_tokens=16, **expected)


def test_the_models_defaults_apply_where_a_request_says_nothing() -> None:
    defaults = {"temperature": 0.6, "top_p": 0.8, "top_k": 20, "eos_token_id": 1, "do_sample": True}
    params = build(defaults)
    assert (params.temperature, params.top_p, params.top_k) == (0.6, 0.8, 20)
    params = build(defaults, temperature=0, top_p=1, top_k=-1)
    assert (params.temperature, params.top_p, params.top_k) == (0, 1, -1)
    assert build({"temperature": None}).temperature == 1
    assert build({"do_sample": False, "temperature": 0.7}).temperature == 0


@pytest.mark.parametrize("broken", [{"temperature": "warm"}, {"top_p": 2}, {"top_k": [1]}, {"temperature": -1}])
def test_defaults_that_cannot_be_used_are_the_checkpoints_fault(broken: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"generation_config\.json cannot be used"):
        GenerationDefaults(broken)


@pytest.mark.parametrize(
    ("seed", "choice_idx", "expected"),
    [(None, 3, None), (0, 0, 0), (7, 2, 9), (-1, 1, 0), (2**63 - 1, 1, -(2**63)), (-(2**63), 0, -(2**63))],
)
def test_each_choice_has_a_seed_of_its_own(seed: int | None, choice_idx: int, expected: int | None) -> None:
    assert build(seed=seed, choice_idx=choice_idx).seed == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("temperature", value) for value in (-0.1, float("nan"), float("inf"))),
        *(("top_p", value) for value in (0, 1.1, float("nan"))),
        *(("top_k", value) for value in (-2, 2**31, 10**30)),
        *(("min_p", value) for value in (-0.1, 1.1)),
        *(("seed", value) for value in (2**63, -(2**63) - 1, 10**400)),
        *(("repetition_penalty", value) for value in (0, -1, float("inf"))),
        *(("presence_penalty", value) for value in (-2.1, 2.1, float("nan"))),
        *(("frequency_penalty", value) for value in (-2.1, 2.1)),
        *(("min_tokens", value) for value in (-1, 17)),
        *(("stop", value) for value in ("", ["a", ""])),
        *(("logit_bias", {key: 1}) for key in ("x", "-1", "1.5", " 1", "٣", "", "1" * 5000)),
        *(("logit_bias", {"1": value}) for value in (-101, 101, float("nan"))),
    ],
)
def test_a_value_out_of_range_is_named(field: str, value: Any) -> None:
    with pytest.raises(APIError) as caught:
        build(**{field: value})
    error = caught.value
    assert (error.status, error.code) == (400, "invalid_value")
    assert error.param is not None
    assert error.param.startswith(field)
    assert error.message.startswith(field)
    assert len(error.message) < 700


def test_what_is_echoed_is_cut() -> None:
    with pytest.raises(APIError) as caught:
        build(stop=["\n" * 100_000, ""])
    assert len(caught.value.message) < 800
    with pytest.raises(APIError) as caught:
        build(logit_bias={str(i): 1000 for i in range(5000)})
    assert len(caught.value.message) < 400


def test_an_engine_that_is_not_ready() -> None:
    info = make_info()
    assert ready_info(cast(Any, FakeModel("tiny", FakeClient(info)))) is info
    with pytest.raises(EngineUnavailableError, match="'tiny' is still loading") as caught:
        ready_info(cast(Any, FakeModel("tiny", FakeClient())))
    assert caught.value.retry_after_s > 0
    failed = FakeClient()
    failed.failure = "no such tensor"
    with pytest.raises(EngineUnavailableError, match="no such tensor"):
        ready_info(cast(Any, FakeModel("tiny", failed)))
