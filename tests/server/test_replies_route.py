"""Tools, reasoning and structured output as a client of the routes sees them."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from server.grammar_service import GrammarService
from tests.server.fake_engine import FakeServer, events, say
from tests.server.stand_ins import connect

pytestmark = pytest.mark.anyio

HERMES = """{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}{% for m in messages -%}
<{{ m.role }}>{{ m.reasoning_content or '' }}{{ m.content }}{{ m.tool_call_id or '' }}
{%- for call in m.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}
{%- endfor %}{{ reasoning_effort }}{% if add_generation_prompt %}<a>{% endif %}"""
THINKS = "{{ messages[0].content }}{% if opens %}<think>\n{% endif %}{# </think> #}"
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Sum",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    },
}
OTHER = {"type": "function", "function": {"name": "other"}}
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
HI = [{"role": "user", "content": "hi"}]


def serve(folder: Path, *args: Any, **options: Any) -> FakeServer:
    """A fake engine with room for prompts of byte tokens."""
    server = FakeServer(folder, *args, **options)
    server.engine.info = msgspec.structs.replace(server.engine.info, max_model_len=2000, longest_context=2000)
    return server


async def post(server: FakeServer, path: str = "/v1/chat/completions", **fields: Any) -> Any:
    body = {"model": "tiny", **({"messages": HI} if "chat" in path else {"prompt": "hi"}), "max_tokens": 200, **fields}
    async with connect(server.app) as client:
        return await client.post(path, json=body)


async def message(server: FakeServer, **fields: Any) -> dict[str, Any]:
    response = await post(server, **fields)
    assert response.status_code == 200, response.text
    choice: dict[str, Any] = response.json()["choices"][0]
    return {**choice["message"], "finish_reason": choice["finish_reason"]}


async def deltas(server: FakeServer, **fields: Any) -> list[dict[str, Any]]:
    response = await post(server, stream=True, **fields)
    return [chunk["choices"][0] for chunk in events(response.text)]


async def refused(server: FakeServer, **fields: Any) -> dict[str, Any]:
    response = await post(server, **fields)
    assert response.status_code == 400, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


def prompt_of(server: FakeServer) -> str:
    return server.tokenizer.decode(server.engine.requests[-1].prompt_token_ids, skip_special_tokens=False)


def grammar_of(server: FakeServer) -> Any:
    text = server.engine.requests[-1].sampling_params.grammar
    return json.loads(text)["grammars"] if text else None


async def test_a_call_of_a_tool(tmp_path: Path) -> None:
    server = serve(tmp_path, say(f"I add.\n{CALL}"), template=HERMES)
    found = await message(server, tools=[ADD])
    [call] = found["tool_calls"]
    assert (found["content"], found["finish_reason"]) == ("I add.", "tool_calls")
    assert call["function"] == {"name": "add", "arguments": '{"a": 1}'}
    assert (call["type"], call["id"][:5]) == ("function", "call_")
    assert prompt_of(server).startswith(json.dumps(ADD))
    assert grammar_of(server) is None, "the model decides itself"


async def test_a_call_in_a_stream(tmp_path: Path) -> None:
    server = serve(tmp_path, say(f"I add.\n{CALL}\n{CALL}"), template=HERMES)
    parts = await deltas(server, tools=[ADD])
    content = "".join(part["delta"].get("content") or "" for part in parts)
    calls = [call for part in parts for call in part["delta"].get("tool_calls", [])]
    assert content == "I add."
    assert [call["index"] for call in calls] == [0, 1]
    assert all(call["function"] == {"name": "add", "arguments": '{"a": 1}'} for call in calls)
    assert calls[0]["id"] != calls[1]["id"]
    assert parts[-1]["finish_reason"] == "tool_calls"
    assert parts[-1]["delta"] == {}


async def test_a_forced_call_streams_its_arguments(tmp_path: Path) -> None:
    server = serve(tmp_path, say(CALL), template=HERMES)
    parts = await deltas(server, tools=[ADD, OTHER], tool_choice="required")
    calls = [call for part in parts for call in part["delta"].get("tool_calls", [])]
    assert calls[0]["function"]["name"] == "add"
    assert "".join(call["function"]["arguments"] for call in calls) == '{"a": 1}'
    assert len(calls) > 2
    assert all(call.keys() == {"index", "function"} for call in calls[1:])
    first, *others = grammar_of(server)
    assert first["lark_grammar"].startswith("start: several\n")
    assert [part["name"] for part in others] == ["arguments_0", "arguments_1"]


async def test_a_message_of_calls_only_has_null_content(tmp_path: Path) -> None:
    found = await message(serve(tmp_path, say(CALL), template=HERMES), tools=[ADD])
    assert found["content"] is None


@pytest.mark.parametrize(
    ("fields", "start", "num_schemas"),
    [
        ({"tool_choice": "required"}, "several", 2),
        ({"tool_choice": "required", "parallel_tool_calls": False}, "one", 2),
        ({"tool_choice": {"type": "function", "function": {"name": "add"}}}, "one", 1),
        ({"tools": [{**ADD, "function": {**ADD["function"], "strict": True}}]}, "free", 1),  # type: ignore[dict-item]
        ({"response_format": {"type": "json_object"}}, "several | @answer", 3),
    ],
)
async def test_what_the_grammar_forces(tmp_path: Path, fields: dict[str, Any], start: str, num_schemas: int) -> None:
    server = serve(tmp_path, say(CALL), template=HERMES)
    assert (await message(server, **{"tools": [ADD, OTHER], **fields}))["finish_reason"] == "tool_calls"
    first, *others = grammar_of(server)
    assert first["lark_grammar"].startswith(f"start: {start}\n")
    assert len(others) == num_schemas


async def test_only_one_call_where_one_is_allowed(tmp_path: Path) -> None:
    server = serve(tmp_path, say(CALL + CALL), template=HERMES)
    assert len((await message(server, tools=[ADD], parallel_tool_calls=False))["tool_calls"]) == 1
    assert len((await message(server, tools=[ADD]))["tool_calls"]) == 2


async def test_tool_choice_none_shows_no_tools_and_reads_no_calls(tmp_path: Path) -> None:
    server = serve(tmp_path, say(CALL), template=HERMES)
    found = await message(server, tools=[ADD], tool_choice="none")
    assert (found["content"], found["finish_reason"]) == (CALL, "stop")
    assert "Sum" not in prompt_of(server)


async def test_a_cut_off_call_ends_for_length(tmp_path: Path) -> None:
    server = serve(tmp_path, say(CALL), template=HERMES)
    assert (await message(server, tools=[ADD], max_tokens=20))["finish_reason"] == "length"


async def test_calls_and_results_reach_the_template(tmp_path: Path) -> None:
    server = serve(tmp_path, template=HERMES)
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    messages = [
        *HI,
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "Hm"},
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
    ]
    await message(server, messages=messages, tools=[ADD], reasoning_effort="low")
    text = prompt_of(server)
    assert text.endswith(
        '<user>hi<assistant>Hm<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call><tool>2c1low<a>'
    )


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        (
            {"tools": [ADD], "tool_choice": {"type": "function", "function": {"name": "x"}}},
            "tool_choice",
            "invalid_value",
        ),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "invalid_value"),
        (
            {"tools": [OTHER, {"type": "function", "function": {"name": "f", "parameters": {"type": "nope"}}}]}
            | {"tool_choice": "required"},
            "tools[1].function.parameters",
            "invalid_grammar",
        ),
        (
            {
                "messages": [
                    {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "x"}}]}
                ]
            },
            "messages[0].tool_calls[0].function.arguments",
            "invalid_value",
        ),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing_field"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "objekt"}}}},
            "response_format.json_schema.schema",
            "invalid_grammar",
        ),
        ({"structured_outputs": {"regex": "(a"}}, "structured_outputs.regex", "invalid_grammar"),
        ({"structured_outputs": {"grammar": "start: x"}}, "structured_outputs.grammar", "invalid_grammar"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs.json", "invalid_grammar"),
        ({"structured_outputs": {"json": "[1]"}}, "structured_outputs.json", "invalid_grammar"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs", "invalid_value"),
        ({"structured_outputs": {}}, "structured_outputs", "invalid_value"),
        (
            {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
            "structured_outputs",
            "invalid_value",
        ),
        ({"structured_outputs": {"regex": "a"}, "allowed_token_ids": [1]}, "allowed_token_ids", "invalid_value"),
    ],
    ids=lambda value: str(value)[:50],
)
async def test_what_cannot_be_is_refused_where_it_is_wrong(
    tmp_path: Path, fields: dict[str, Any], param: str, code: str
) -> None:
    server = serve(tmp_path, template=HERMES)
    error = await refused(server, **fields)
    assert (error["param"], error["code"]) == (param, code), error
    assert server.engine.requests == []


async def test_a_wrong_schema_is_named_to_the_place(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "string", "pattern": "("}}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    error = await refused(serve(tmp_path), response_format=form)
    assert "at properties.a.items: " in error["message"]


async def test_schemas_have_a_depth_and_a_size(tmp_path: Path) -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(70):
        deep = {"items": deep}
    server = serve(tmp_path, max_grammar_bytes=1000)
    assert "64 levels" in (await refused(server, structured_outputs={"json": deep}))["message"]
    assert "limit is 1000" in (await refused(server, structured_outputs={"choice": ["x" * 2000]}))["message"]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
async def test_every_kind_of_structured_output_reaches_the_engine(tmp_path: Path, path: str) -> None:
    server = serve(tmp_path)
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    kinds: list[dict[str, Any]] = [
        {"structured_outputs": {"json": schema}},
        {"structured_outputs": {"json": json.dumps(schema)}},
        {"structured_outputs": {"regex": "[a-z]+/[0-9]"}},
        {"structured_outputs": {"choice": ['a "b"', "c\n"]}},
        {"structured_outputs": {"grammar": 'start: "x"'}},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}},
    ]
    for fields in kinds:
        response = await post(server, path, **fields)
        assert response.status_code == 200, response.text
        assert [part["name"] for part in grammar_of(server)] == ["answer"]
    await post(server, path, response_format={"type": "text"})
    assert grammar_of(server) is None


async def test_a_grammar_is_compiled_once(tmp_path: Path) -> None:
    server = serve(tmp_path)
    for _ in range(3):
        await post(server, structured_outputs={"regex": "a"}, n=2)
        assert (await post(server, structured_outputs={"regex": "("})).status_code == 400
    assert isinstance(server.state.grammars, GrammarService)
    kinds = [type(job).__name__ for job in server.state.grammar_process.jobs]
    assert kinds.count("Compile") == 3, "the first one asks for the vocabulary"


async def test_thoughts_are_taken_out(tmp_path: Path) -> None:
    server = serve(tmp_path, say("<think>\nhello\n</think>\n\nhello <b>"), template=THINKS)
    found = await message(server)
    assert (found["reasoning_content"], found["content"]) == ("hello", "hello <b>")
    parts = await deltas(server)
    assert "".join(part["delta"].get("reasoning_content", "") for part in parts) == "hello"
    assert "".join(part["delta"].get("content", "") for part in parts) == "hello <b>"


async def test_thoughts_that_the_prompt_begins(tmp_path: Path) -> None:
    server = serve(tmp_path, say("hello</think>yes"), template=THINKS)
    found = await message(server, chat_template_kwargs={"opens": True}, structured_outputs={"choice": ["yes"]})
    assert (found["reasoning_content"], found["content"]) == ("hello", "yes")
    assert grammar_of(server)[0]["lark_grammar"].startswith("start: thoughts (@answer)\nthoughts: thinking ")
    assert "reasoning_content" not in await message(serve(tmp_path, say("plain <think>"), template=THINKS))


async def test_a_template_without_tools_or_of_an_unknown_format_is_refused(tmp_path: Path) -> None:
    for template in ("{{ messages }}", "{{ tools }}{{ messages }}"):
        error = await refused(serve(tmp_path, template=template), tools=[ADD])
        assert (error["param"], error["code"]) == ("tools", "unsupported_field")


async def test_log_probabilities_stay_with_calls(tmp_path: Path) -> None:
    server = serve(tmp_path, say(CALL), template=HERMES)
    parts = await deltas(server, tools=[ADD], logprobs=True)
    entries = [entry for part in parts for entry in (part["logprobs"] or {"content": []})["content"]]
    assert bytes(byte for entry in entries for byte in entry["bytes"]).decode().startswith(CALL)
