"""/openapi.json describes what the server does, and nothing that it never does."""

import json
import re
from typing import Any

import pytest

from tests.server.fake_engine import FakeServer, events
from tests.server.stand_ins import connect

pytestmark = pytest.mark.anyio

GENERATION = {
    "/v1/completions": {"model": "tiny", "prompt": "hi", "logprobs": 1, "prompt_logprobs": 1, "max_tokens": 3},
    "/v1/chat/completions": {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "logprobs": True},
}


def test_every_reference_leads_somewhere(server: FakeServer) -> None:
    schema = server.app.openapi()
    names = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(schema)))
    assert {"CompletionBody", "ChatBody", "Completion", "ChatCompletion", "ErrorResponse"} <= names
    assert names <= set(schema["components"]["schemas"])
    assert "$defs" not in json.dumps(schema)


def test_errors_are_the_servers_own(server: FakeServer) -> None:
    schema = server.app.openapi()
    assert "HTTPValidationError" not in schema["components"]["schemas"]
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            assert "422" not in operation["responses"], path
            error = operation["responses"]["4XX"]["content"]["application/json"]["schema"]
            assert error == {"$ref": "#/components/schemas/ErrorResponse"}


def test_streams_and_whole_answers_are_described(server: FakeServer) -> None:
    paths = server.app.openapi()["paths"]
    for path, name in (("/v1/completions", "Completion"), ("/v1/chat/completions", "ChatCompletion")):
        content = paths[path]["post"]["responses"]["200"]["content"]
        assert content["application/json"]["schema"] == {"$ref": f"#/components/schemas/{name}"}
        assert "[DONE]" in content["text/event-stream"]["itemSchema"]["properties"]["data"]["description"]
    for path, name in (("/tokenize", "Tokenized"), ("/detokenize", "Detokenized")):
        content = paths[path]["post"]["responses"]["200"]["content"]
        assert content == {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}


def problems(value: Any, schema: dict[str, Any], components: dict[str, Any], place: str = "") -> list[str]:
    """Fields of `value` that `schema` does not name, and those that it requires and `value` lacks."""
    if "$ref" in schema:
        return problems(value, components[schema["$ref"].rpartition("/")[2]], components, place)
    if "anyOf" in schema:
        return min((problems(value, option, components, place) for option in schema["anyOf"]), key=len)
    if isinstance(value, list) and "items" in schema:
        return [
            text
            for i, item in enumerate(value)
            for text in problems(item, schema["items"], components, f"{place}[{i}]")
        ]
    if isinstance(value, dict) and "properties" in schema:
        wrong = [f"{place}.{name}" for name in set(schema.get("required", [])) - set(value)]
        named = {name: item for name, item in value.items() if name in schema["properties"]}
        wrong += [f"{place}.{name}" for name in set(value) - set(named)]
        return wrong + [
            text
            for name, item in named.items()
            for text in problems(item, schema["properties"][name], components, f"{place}.{name}")
        ]
    if schema.get("type") == "null":
        return [] if value is None else [place]
    return [] if schema.get("const", value) == value and not (value is None and "type" in schema) else [place]


@pytest.mark.parametrize("path", GENERATION)
async def test_answers_are_as_described(server: FakeServer, path: str) -> None:
    components = server.app.openapi()["components"]["schemas"]
    whole, chunk = (
        ("Completion", "Completion") if path == "/v1/completions" else ("ChatCompletion", "ChatCompletionChunk")
    )
    async with connect(server.app) as client:
        answer = (await client.post(path, json=GENERATION[path])).json()
        assert problems(answer, components[whole], components) == []
        options = {"stream": True, "stream_options": {"include_usage": True}}
        for event in events((await client.post(path, json={**GENERATION[path], **options})).text):
            assert problems(event, components[chunk], components) == []
    assert problems({**answer, "x": 1}, components[whole], components) == [".x"]
