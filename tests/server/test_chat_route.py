"""POST /v1/chat/completions: every field works or is refused by name."""

from pathlib import Path
from typing import Any

import pytest

from tests.server import tiny_tokenizers as tiny
from tests.server.fake_engine import EOS_ID, OUTPUT, VOCABULARY, FakeServer, encode, say
from tests.server.stand_ins import connect
from tests.server.test_completions import NULLABLE as COMPLETIONS_NULLABLE

pytestmark = pytest.mark.anyio

HI = [{"role": "user", "content": "hi"}]
Answer = dict[str, Any]


async def post(server: FakeServer, **fields: Any) -> Any:
    async with connect(server.app) as client:
        return await client.post("/v1/chat/completions", json={"model": "tiny", "messages": HI, **fields})


async def chat(server: FakeServer, **fields: Any) -> Answer:
    response = await post(server, **fields)
    assert response.status_code == 200, response.text
    answer: Answer = response.json()
    return answer


async def prompt_of(server: FakeServer, **fields: Any) -> str:
    """The text that the engine was given."""
    await chat(server, **fields)
    return server.tokenizer.decode(server.engine.requests[-1].prompt_token_ids, skip_special_tokens=False)


async def test_the_shape_of_an_answer(server: FakeServer) -> None:
    answer = await chat(server)
    assert answer["id"].startswith("chatcmpl-")
    assert answer["object"] == "chat.completion"
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": OUTPUT},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert answer["usage"]["prompt_tokens"] == len(encode("<user>hi\n<assistant>"))


async def test_an_answer_without_text_has_a_content(tmp_path: Path) -> None:
    assert (await chat(FakeServer(tmp_path, say(""))))["choices"][0]["message"]["content"] == ""


async def test_messages_go_through_the_template(server: FakeServer) -> None:
    assert await prompt_of(server) == "<user>hi\n<assistant>"
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert await prompt_of(server, messages=[{"role": "user", "content": parts}]) == "<user>ab\n<assistant>"
    assert await prompt_of(server, add_generation_prompt=False) == "<user>hi\n"
    going_on = [*HI, {"role": "assistant", "content": "well "}]
    text = await prompt_of(server, messages=going_on, add_generation_prompt=False, continue_final_message=True)
    assert text == "<user>hi\n<assistant>well "


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool"])
async def test_every_role(server: FakeServer, role: str) -> None:
    assert await prompt_of(server, messages=[{"role": role, "content": "x", "name": "y"}]) == f"<{role}>x\n<assistant>"


async def test_what_a_client_sends_back_of_an_answer_is_accepted(server: FakeServer) -> None:
    nothing = dict.fromkeys(["refusal", "annotations", "audio", "function_call", "tool_calls", "tool_call_id", "name"])
    message = (await chat(server))["choices"][0]["message"] | nothing
    assert await prompt_of(server, messages=[*HI, message, *HI]) == (
        f"<user>hi\n<assistant>{OUTPUT}\n<user>hi\n<assistant>"
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, 200 - len("<user>hi\n<assistant>")),
        ({"max_tokens": 3}, 3),
        ({"max_completion_tokens": 3}, 3),
        ({"max_completion_tokens": 3, "max_tokens": 3}, 3),
    ],
    ids=str,
)
async def test_how_long_an_answer_may_be(server: FakeServer, fields: dict[str, Any], expected: int) -> None:
    await chat(server, **fields)
    assert server.engine.requests[0].sampling_params.max_tokens == expected


NULLABLE = [
    *(name for name in COMPLETIONS_NULLABLE if name not in ("echo", "suffix")),
    *("max_completion_tokens", "top_logprobs", "tools", "tool_choice", "parallel_tool_calls", "chat_template_kwargs"),
    *("continue_final_message", "add_generation_prompt"),
]


async def test_null_says_nothing(server: FakeServer) -> None:
    assert (await chat(server, **dict.fromkeys(NULLABLE)))["choices"][0]["message"]["content"] == OUTPUT


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": []},
        {"tool_choice": "none"},
        {"tool_choice": "auto"},
        {"parallel_tool_calls": True},
        {"response_format": {"type": "text"}},
        {"chat_template_kwargs": {}},
        {"modalities": ["text"]},
        {"user": "x", "store": False, "service_tier": "default", "metadata": {}},
    ],
    ids=str,
)
async def test_fields_that_ask_for_nothing_are_accepted(server: FakeServer, fields: dict[str, Any]) -> None:
    assert (await chat(server, **fields))["choices"][0]["message"]["content"] == OUTPUT


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "unsupported_field"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"chat_template_kwargs": {"enable_thinking": True}}, "chat_template_kwargs", "unknown_field"),
        ({"chat_template_kwargs": {"messages": "x"}}, "chat_template_kwargs", "unknown_field"),
        ({"chat_template_kwargs": {"chat_template": "x"}}, "chat_template_kwargs", "unknown_field"),
        ({"chat_template_kwargs": {"x": [1]}}, "chat_template_kwargs.x", "invalid_type"),
        ({"reasoning_effort": "low"}, "reasoning_effort", "unknown_field"),
        ({"kv_receipt": 1}, "kv_receipt", "invalid_type"),
        ({"cache_salt": ""}, "cache_salt", "invalid_value"),
        ({"cache_salt": "x" * 257}, "cache_salt", "invalid_value"),
        ({"chat_template": "{{ x }}"}, "chat_template", "unknown_field"),
        ({"echo": True}, "echo", "unknown_field"),
        ({"prompt": "x"}, "prompt", "unknown_field"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": None}, "messages", "missing_field"),
        ({"messages": "hi"}, "messages", "invalid_type"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_field"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "missing_field"),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "missing_field"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [*HI, {**HI[0], "x": 1}]}, "messages[1].x", "unknown_field"),
        ({"messages": [{**HI[0], "tool_call_id": "1"}]}, "messages[0].tool_call_id", "invalid_value"),
        ({"messages": [{**HI[0], "audio": {"id": "1"}}]}, "messages[0].audio", "unsupported_field"),
        ({"logprobs": 3}, "logprobs", "invalid_type"),
        ({"top_logprobs": 3}, "top_logprobs", "invalid_value"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_completion_tokens": 0}, "max_completion_tokens", "invalid_value"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_completion_tokens", "invalid_value"),
        ({"continue_final_message": True}, "continue_final_message", "invalid_value"),
        ({"messages": [{"role": "user", "content": "x" * 300}]}, "messages", "context_length_exceeded"),
        (
            {"messages": [{"role": "user", "content": "x" * 300}], "max_tokens": 1},
            "messages",
            "context_length_exceeded",
        ),
        ({"max_tokens": 200}, "max_tokens", "context_length_exceeded"),
        ({"max_completion_tokens": 200}, "max_completion_tokens", "context_length_exceeded"),
        ({"n": 129}, "n", "invalid_value"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_what_cannot_be_is_refused_by_name(
    server: FakeServer, fields: dict[str, Any], param: str, code: str
) -> None:
    response = await post(server, **fields)
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (400, "invalid_request_error")
    assert (error["code"], error["param"]) == (code, param), error
    assert server.engine.requests == []


@pytest.mark.parametrize("type_", ["image_url", "input_audio", "file"])
async def test_only_text_is_read(server: FakeServer, type_: str) -> None:
    part = {"type": type_, type_: {"url": "http://example.com"}}
    response = await post(server, messages=[{"role": "user", "content": [part]}])
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("messages[0].content[0]")


async def test_log_probabilities(tmp_path: Path) -> None:
    server = FakeServer(tmp_path, say("h€"))
    [choice] = (await chat(server, logprobs=True, top_logprobs=2))["choices"]
    content = choice["logprobs"]["content"]
    assert [bytes(entry["bytes"]) for entry in content] == [b"h", b"\xe2", b"\x82", b"\xac", tiny.EOS.encode()]
    assert [entry["token"] for entry in content] == ["h", "\ufffd", "\ufffd", "\ufffd", tiny.EOS]
    assert content[0]["logprob"] == -float(VOCABULARY["h"])
    assert [len(entry["top_logprobs"]) for entry in content] == [2] * 5
    assert content[-1]["logprob"] == -float(EOS_ID)
    [choice] = (await chat(server, logprobs=True))["choices"]
    assert [entry["top_logprobs"] for entry in choice["logprobs"]["content"]] == [[]] * 5
    [choice] = (await chat(server, logprobs=False))["choices"]
    assert choice["logprobs"] is None


async def test_a_model_without_a_template(tmp_path: Path) -> None:
    response = await post(FakeServer(tmp_path, template=None))
    assert (response.status_code, response.json()["error"]["code"]) == (400, "no_chat_template")


async def test_special_tokens_are_the_templates_business(server: FakeServer) -> None:
    assert await prompt_of(server, add_special_tokens=True) == "<user>hi\n<assistant>"
    assert EOS_ID in encode(tiny.EOS)
