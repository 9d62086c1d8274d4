"""Structured output, tools and reasoning with the official client, on random weights: what comes out is the grammar's doing."""

import json
import random
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import jsonschema_rs
import openai
import pytest
from pydantic import BaseModel

from tests.e2e.server_process import ServerProcess

pytestmark = [pytest.mark.e2e, pytest.mark.demo]

QUESTION: Any = [{"role": "user", "content": "Say something."}]


@pytest.fixture(scope="module")
def api(templated_server: ServerProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{templated_server.url}/v1", api_key="unused", max_retries=0)


def random_schema(source: random.Random, depth: int = 0) -> dict[str, Any]:
    """A schema whose outputs have an end, of the kinds that people send."""
    kinds = [
        "string",
        "integer",
        "number",
        "boolean",
        "enum",
        "pattern",
        *(["object", "array", "anyOf"] if depth < 3 else []),
    ]
    match source.choice(kinds) if depth else "object":
        case "object":
            names = [f"field_{i}" for i in range(source.randint(1, 4))]
            properties = {name: random_schema(source, depth + 1) for name in names}
            return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}
        case "array":
            items = random_schema(source, depth + 1)
            return {"type": "array", "items": items, "minItems": 1, "maxItems": source.randint(1, 3)}
        case "anyOf":
            return {"anyOf": [random_schema(source, depth + 1), {"type": "null"}]}
        case "string":
            return {"type": "string", "maxLength": source.randint(0, 12)}
        case "pattern":
            return {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{1,4}$"}
        case "integer":
            return {"type": "integer", "minimum": source.randint(-50, 0), "maximum": source.randint(1, 500)}
        case "number":
            return {"enum": [0.5, -2, 1e10]}
        case "enum":
            return {"enum": ["red", "blau", "grün ✓", 3, None, True]}
        case kind:
            return {"type": kind}


def generate(api: openai.OpenAI, seed: int) -> None:
    schema = random_schema(random.Random(seed))
    form: Any = {"type": "json_schema", "json_schema": {"name": "made_up", "schema": schema, "strict": True}}
    answer = api.chat.completions.create(
        model="tiny", messages=QUESTION, response_format=form, seed=seed, temperature=1.0, max_tokens=1500
    )
    [choice] = answer.choices
    assert choice.finish_reason == "stop", (seed, schema, choice)
    jsonschema_rs.validate(schema, json.loads(choice.message.content or ""))


def test_20_generations_match_their_schemas(api: openai.OpenAI) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda seed: generate(api, seed), range(20)))


@pytest.mark.soak
def test_200_generations_match_their_schemas(api: openai.OpenAI) -> None:
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda seed: generate(api, seed), range(1000, 1200)))


class Point(BaseModel):
    """A made-up answer."""

    color: Literal["red", "green"]
    is_far: bool


class Drawing(BaseModel):
    """Another one, with the first inside."""

    first: Point
    second: Point | None


def test_parse_gives_objects(api: openai.OpenAI) -> None:
    answer = api.chat.completions.parse(model="tiny", messages=QUESTION, response_format=Drawing, n=3, seed=1)
    assert all(isinstance(choice.message.parsed, Drawing) for choice in answer.choices)


def test_parse_gives_the_arguments_of_tools(api: openai.OpenAI) -> None:
    answer = api.chat.completions.parse(
        model="tiny",
        messages=QUESTION,
        tools=[openai.pydantic_function_tool(Point), openai.pydantic_function_tool(Drawing)],
        tool_choice="required",
        parallel_tool_calls=False,
        seed=3,
    )
    [choice] = answer.choices
    assert choice.finish_reason == "tool_calls"
    [call] = choice.message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, Point | Drawing)
    # What came out goes back in.
    history = [*QUESTION, choice.message.to_dict(), {"role": "tool", "tool_call_id": call.id, "content": "done"}]
    again = api.chat.completions.create(model="tiny", messages=history, max_tokens=2)
    assert again.usage is not None


def test_the_streaming_helper_gathers_calls(api: openai.OpenAI) -> None:
    with api.chat.completions.stream(
        model="tiny",
        messages=QUESTION,
        tools=[openai.pydantic_function_tool(Point)],
        tool_choice={"type": "function", "function": {"name": "Point"}},
        seed=5,
    ) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert kinds.count("tool_calls.function.arguments.delta") > 2
    [call] = final.choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, Point)
    assert final.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize(
    ("outputs", "pattern"),
    [
        ({"regex": "[A-Z]{3}[0-9]+/(on|off)"}, "[A-Z]{3}[0-9]+/(on|off)"),
        ({"choice": ["yes", "perhaps \u2713", "no"]}, "yes|perhaps \u2713|no"),
        ({"grammar": 'start: "(" (start | "x") ")"'}, r"\(+x\)+"),
        ({"json": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2}}, r"\[[\s\S]*\]"),
    ],
)
def test_structured_outputs(api: openai.OpenAI, outputs: dict[str, Any], pattern: str) -> None:
    extra = {"structured_outputs": outputs}
    for seed in range(3):
        answer = api.completions.create(
            model="tiny", prompt="x", max_tokens=400, seed=seed, extra_body=extra, logit_bias={"25": 20}
        )
        assert re.fullmatch(pattern, answer.choices[0].text) or answer.choices[0].finish_reason == "length"
        chat = api.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=400, seed=seed, extra_body=extra)
        assert re.fullmatch(pattern, chat.choices[0].message.content or "") or chat.choices[0].finish_reason == "length"


def test_thoughts_come_before_an_answer_that_matches(templated_server: ServerProcess) -> None:
    body = {"model": "thinker", "messages": QUESTION, "structured_outputs": {"choice": ["yes", "no"]}, "seed": 1}
    options = {"chat_template_kwargs": {"thinks": True}, "max_tokens": 60}
    cut = templated_server.post("/v1/chat/completions", {**body, **options}).json()["choices"][0]
    assert (cut["finish_reason"], cut["message"]["content"]) == ("length", ""), "random weights think for ever"
    assert cut["message"]["reasoning_content"]


@pytest.mark.parametrize(("variable", "message"), [("loops", "longer than 0.5 s"), ("escapes", "unsafe")])
def test_a_template_that_leaves_or_loops_is_stopped(
    templated_server: ServerProcess, variable: str, message: str
) -> None:
    body = {"model": "tiny", "messages": QUESTION, "max_tokens": 2}
    response = templated_server.post("/v1/chat/completions", {**body, "chat_template_kwargs": {variable: True}})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_messages")
    assert message in response.json()["error"]["message"]
    assert templated_server.post("/v1/chat/completions", body).status_code == 200


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"regex": "((a{1000}){1000}"}, "unclosed group"),
        ({"regex": "(a{1000}){1000}"}, ""),  # out of time, or of expressions, whichever comes first
        ({"json": {"properties": {"a": {"pattern": "(?=x)"}}}}, "at properties.a: "),
        ({"grammar": "start: a\na: b"}, "unknown name"),
    ],
)
def test_a_wrong_grammar_says_where(templated_server: ServerProcess, outputs: dict[str, Any], message: str) -> None:
    body = {"model": "tiny", "prompt": "x", "structured_outputs": outputs}
    error = templated_server.post("/v1/completions", body).json()["error"]
    [kind] = outputs
    assert (error["code"], error["param"]) == ("invalid_grammar", f"structured_outputs.{kind}")
    assert message in error["message"]
    assert templated_server.get("/health").status_code == 200
