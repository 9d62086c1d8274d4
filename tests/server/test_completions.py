"""POST /v1/completions: every field works or is refused by name."""

from pathlib import Path
from typing import Any

import pytest

from engine.client import EngineState
from tests.server import tiny_tokenizers as tiny
from tests.server.fake_engine import EOS_ID, OUTPUT, VOCABULARY, FakeServer, deltas_of, encode, say
from tests.server.stand_ins import connect

pytestmark = pytest.mark.anyio

BODY: dict[str, Any] = {"model": "tiny", "prompt": "hi", "max_tokens": 50}
Answer = dict[str, Any]


async def post(server: FakeServer, **fields: Any) -> Any:
    async with connect(server.app) as client:
        return await client.post("/v1/completions", json={**BODY, **fields})


async def complete(server: FakeServer, **fields: Any) -> Answer:
    response = await post(server, **fields)
    assert response.status_code == 200, response.text
    answer: Answer = response.json()
    return answer


async def refuse(server: FakeServer, status: int = 400, **fields: Any) -> Answer:
    response = await post(server, **fields)
    assert response.status_code == status, response.text
    assert server.engine.num_open == 0, "nothing is left behind"
    error: Answer = response.json()["error"]
    return error


async def test_the_shape_of_an_answer(server: FakeServer) -> None:
    answer = await complete(server)
    assert set(answer) == {"id", "object", "created", "model", "choices", "usage"}
    assert answer["id"].startswith("cmpl-")
    assert (answer["object"], answer["model"]) == ("text_completion", "tiny")
    assert answer["choices"] == [{"index": 0, "text": OUTPUT, "logprobs": None, "finish_reason": "stop"}]
    num_tokens = len(encode(OUTPUT)) + 1
    assert answer["usage"] == {
        "prompt_tokens": 2,
        "completion_tokens": num_tokens,
        "total_tokens": num_tokens + 2,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


@pytest.mark.parametrize(
    ("field", "value", "attribute", "expected"),
    [
        ("max_tokens", 3, "max_tokens", 3),
        ("temperature", 0, "temperature", 0),
        ("top_p", 0.5, "top_p", 0.5),
        ("seed", 7, "seed", 7),
        ("presence_penalty", 1, "presence_penalty", 1),
        ("frequency_penalty", -1, "frequency_penalty", -1),
        ("repetition_penalty", 1.5, "repetition_penalty", 1.5),
        ("logit_bias", {"5": -100}, "logit_bias", {5: -100}),
        ("logprobs", 20, "logprobs", 20),
        ("prompt_logprobs", 20, "prompt_logprobs", 20),
        ("top_k", 3, "top_k", 3),
        ("min_p", 0.2, "min_p", 0.2),
        ("min_tokens", 2, "min_tokens", 2),
        ("ignore_eos", True, "ignore_eos", True),
        ("stop_token_ids", [4], "stop_token_ids", (4,)),
        ("stop", "x", "stop", ("x",)),
        ("stop", ["x"] * 16, "stop", ("x",) * 16),
    ],
)
async def test_a_field_reaches_the_engine(
    server: FakeServer, field: str, value: Any, attribute: str, expected: Any
) -> None:
    await complete(server, **{field: value})
    assert getattr(server.engine.requests[0].sampling_params, attribute) == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "x"},
        {"metadata": {"a": "b"}},
        {"store": True},
        {"service_tier": "auto"},
        {"response_format": {"type": "text"}},
        {"bad_words": []},
        {"return_token_ids": False},
        {"kv_receipt": False},
        {"best_of": 1},
        {"stop": []},
        {"logit_bias": {}},
        {"stream": False},
    ],
    ids=str,
)
async def test_fields_that_ask_for_nothing_are_accepted(server: FakeServer, fields: dict[str, Any]) -> None:
    assert (await complete(server, **fields))["choices"][0]["text"] == OUTPUT


NULLABLE = [
    *("max_tokens", "temperature", "top_p", "n", "stop", "seed", "presence_penalty", "frequency_penalty", "logit_bias"),
    *(
        "logprobs",
        "echo",
        "suffix",
        "stream",
        "stream_options",
        "response_format",
        "user",
        "metadata",
        "store",
        "top_k",
    ),
    *("service_tier", "min_p", "repetition_penalty", "min_tokens", "ignore_eos", "stop_token_ids", "priority"),
    *("include_stop_str_in_output", "skip_special_tokens", "add_special_tokens", "prompt_logprobs", "return_token_ids"),
    *("truncate_prompt_tokens", "bad_words", "allowed_token_ids", "cache_salt", "structured_outputs", "kv_receipt"),
]


async def test_null_says_nothing(server: FakeServer) -> None:
    fields: dict[str, Any] = dict.fromkeys(NULLABLE)
    answer = await complete(server, **{**fields, "max_tokens": 50})
    assert answer["choices"][0]["text"] == OUTPUT
    assert (await complete(server, stream_options=None))["choices"]
    assert server.engine.requests[0].sampling_params == server.engine.requests[1].sampling_params


async def test_what_is_not_supported_is_refused_by_name(server: FakeServer) -> None:
    error = await refuse(server, suffix="x")
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "unsupported_field", "suffix")
    assert "suffix" in error["message"]


@pytest.mark.parametrize(
    "field", ["temprature", "messages", "guided_json", "chat_template", "prompt_embeds", "\x1b[2J"]
)
@pytest.mark.parametrize("value", [1, None])
async def test_what_is_unknown_is_refused_even_as_null(server: FakeServer, field: str, value: Any) -> None:
    error = await refuse(server, **{field: value})
    assert error["code"] == "unknown_field"
    assert "\x1b" not in error["message"] + error["param"]


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"n": 0}, "n", "invalid_value"),
        ({"n": 129}, "n", "invalid_value"),
        ({"n": "2"}, "n", "invalid_type"),
        ({"n": 1.5}, "n", "invalid_type"),
        ({"n": True}, "n", "invalid_type"),
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "unknown_field"),
        ({"stop": ["x"] * 17}, "stop", "invalid_value"),
        ({"stop_token_ids": [VOCABULARY["h"], 10**6]}, "stop_token_ids", "invalid_value"),
        ({"logprobs": 21}, "logprobs", "invalid_value"),
        ({"logprobs": True}, "logprobs", "invalid_type"),
        ({"prompt_logprobs": -1}, "prompt_logprobs", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": -1}, "max_tokens", "invalid_value"),
        ({"max_tokens": 10**30}, "max_tokens", "context_length_exceeded"),
        ({"max_tokens": 199}, "max_tokens", "context_length_exceeded"),
        ({"prompt": [1] * 200}, "prompt", "context_length_exceeded"),
        ({"logit_bias": {"99999": 1}}, "logit_bias", "invalid_value"),
        ({"metadata": {"a": 1}}, "metadata.a", "invalid_type"),
        ({"priority": 2**31}, "priority", "invalid_value"),
        ({"prompt": []}, "prompt", "invalid_value"),
        ({"prompt": ""}, "prompt", "invalid_value"),
        ({"prompt": [[]]}, "prompt", "invalid_value"),
        ({"prompt": ["hi", ""]}, "prompt", "invalid_value"),
        ({"prompt": [1, 10**6]}, "prompt", "invalid_value"),
        ({"prompt": [-1]}, "prompt", "invalid_value"),
        ({"prompt": [1, "a"]}, None, "invalid_type"),
        ({"prompt": [True]}, None, "invalid_type"),
        ({"prompt": {"text": "hi"}}, "prompt", "invalid_type"),
        ({"prompt": 5}, "prompt", "invalid_type"),
        ({"prompt": None}, "prompt", "missing_field"),
        ({"prompt": ["hi"] * 1025}, "prompt", "invalid_value"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_value_that_cannot_be_is_named(
    server: FakeServer, fields: dict[str, Any], param: str | None, code: str
) -> None:
    error = await refuse(server, **fields)
    assert error["code"] == code, error
    assert param is None or error["param"] == param
    assert len(error["message"]) < 500


@pytest.mark.parametrize(
    ("prompt", "token_ids"),
    [
        ("hello", [encode("hello")]),
        (["hello", "é"], [encode("hello"), encode("é")]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
        ([tiny.EOS], [[EOS_ID]]),
    ],
    ids=str,
)
async def test_the_shapes_of_a_prompt(server: FakeServer, prompt: Any, token_ids: list[list[int]]) -> None:
    answer = await complete(server, prompt=prompt, n=2)
    assert [request.prompt_token_ids for request in server.engine.requests] == [i for i in token_ids for _ in range(2)]
    assert [choice["index"] for choice in answer["choices"]] == list(range(2 * len(token_ids)))
    assert answer["usage"]["prompt_tokens"] == sum(map(len, token_ids))


@pytest.mark.parametrize(("num_prompt_tokens", "expected"), [(1, 16), (190, 10), (199, 1)])
async def test_sixteen_tokens_or_what_is_left(server: FakeServer, num_prompt_tokens: int, expected: int) -> None:
    await complete(server, prompt=[1] * num_prompt_tokens, max_tokens=None)
    assert server.engine.requests[0].sampling_params.max_tokens == expected


async def test_log_probabilities(tmp_path: Path) -> None:
    server = FakeServer(tmp_path, say("h€"))
    [choice] = (await complete(server, logprobs=1))["choices"]
    told = choice["logprobs"]
    assert told["tokens"] == ["h", "\ufffd", "\ufffd", "\ufffd", tiny.EOS]
    assert told["text_offset"] == [0, 1, 1, 1, 2]
    assert told["token_logprobs"][0] == -float(VOCABULARY["h"])
    assert told["top_logprobs"][0] == {"h": -float(VOCABULARY["h"])}
    [choice] = (await complete(server, logprobs=0))["choices"]
    assert choice["logprobs"]["top_logprobs"][0] == {"h": -float(VOCABULARY["h"])}


async def test_an_echo_comes_with_its_log_probabilities(server: FakeServer) -> None:
    [choice] = (await complete(server, echo=True, logprobs=0, max_tokens=1))["choices"]
    assert choice["text"] == "hi" + "hello"
    assert choice["logprobs"]["tokens"] == ["h", "i", "hello"]
    assert choice["logprobs"]["token_logprobs"][0] is None
    assert choice["logprobs"]["text_offset"] == [0, 1, 2]
    [choice] = (await complete(server, echo=True, max_tokens=0))["choices"]
    assert (choice["text"], choice["finish_reason"], choice["logprobs"]) == ("hi", "length", None)
    [choice] = (await complete(server, echo=True, prompt=[VOCABULARY["h"], EOS_ID], max_tokens=1))["choices"]
    assert choice["text"] == "hhello"


async def test_prompt_log_probabilities(server: FakeServer) -> None:
    [choice] = (await complete(server, prompt_logprobs=1, max_tokens=0))["choices"]
    i = VOCABULARY["i"]
    assert choice["prompt_logprobs"] == [None, {str(i): {"logprob": -float(i), "decoded_token": "i"}}]
    assert choice["text"] == ""


async def test_special_tokens_show_only_where_asked_for(tmp_path: Path) -> None:
    server = FakeServer(tmp_path, lambda request: deltas_of(request, [*encode("h"), EOS_ID, *encode("i")]))
    assert (await complete(server))["choices"][0]["text"] == "hi"
    assert (await complete(server, skip_special_tokens=False))["choices"][0]["text"] == f"h{tiny.EOS}i"


async def test_each_choice_has_its_own_seed_and_every_one_the_priority(server: FakeServer) -> None:
    await complete(server, n=3, seed=5, priority=-2)
    assert [request.sampling_params.seed for request in server.engine.requests] == [5, 6, 7]
    assert {request.priority for request in server.engine.requests} == {-2}


@pytest.mark.parametrize("stream", [True, False])
async def test_a_full_queue_leaves_nothing_behind(tmp_path: Path, stream: bool) -> None:
    server = FakeServer(tmp_path, is_manual=True)
    server.engine.max_num_requests = 2
    response = await post(server, n=3, stream=stream)
    assert response.status_code == 429
    assert response.headers["retry-after"] == "2"
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "queue_full")
    assert len(server.engine.aborted) == 2
    assert server.engine.num_open == 0
    assert server.metric('headcount_rejected_requests_total{model_name="tiny",reason="queue_full"}') == 1


async def test_a_model_that_is_loading_or_cannot_be_loaded(server: FakeServer) -> None:
    server.engine.info, server.engine.state = None, EngineState.LOADING
    response = await post(server)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_unavailable")
    assert response.headers["retry-after"]
    assert "loading" in response.json()["error"]["message"]


async def test_an_unknown_model(server: FakeServer) -> None:
    error = await refuse(server, 404, model="tinny")
    assert (error["code"], error["param"]) == ("model_not_found", "model")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'"x"', b'{"model": "tiny", "prompt": "\xff"}'])
async def test_a_body_that_is_no_object(server: FakeServer, content: bytes) -> None:
    async with connect(server.app) as client:
        response = await client.post("/v1/completions", content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


async def test_half_a_surrogate_pair(server: FakeServer) -> None:
    for field in ('"prompt": "\\ud800"', '"prompt": "x", "stop": ["\\udfff"]'):
        async with connect(server.app) as client:
            content = f'{{"model": "tiny", {field}}}'
            response = await client.post(
                "/v1/completions", content=content, headers={"content-type": "application/json"}
            )
        assert response.status_code == 400, response.text
