"""What /openapi.json says of the routes that answer by themselves: shapes of JSON and of streams, and the errors of all."""

from typing import Any

import msgspec
from fastapi import FastAPI

from server.compare.records import ComparisonRecord
from server.errors import ErrorResponse
from server.protocol.heads import AttentionOut
from server.protocol.kv_blocks import BlockMapOut, RequestStatesOut
from server.protocol.responses import ChatChoice, ChatChunkChoice, CompletionChoice, Usage
from server.protocol.tokens import Detokenized, Tokenized

Responses = dict[int | str, dict[str, Any]]
Schema = dict[str, Any]

_STRUCTS = (
    CompletionChoice,
    ChatChoice,
    ChatChunkChoice,
    Usage,
    Tokenized,
    Detokenized,
    BlockMapOut,
    RequestStatesOut,
    ComparisonRecord,
    AttentionOut,
)

ERRORS: Responses = {
    "4XX": {"model": ErrorResponse, "description": "The request is at fault: the message says what to change"},
    "5XX": {"model": ErrorResponse, "description": "The server is at fault; with Retry-After where it will be back"},
}
"""For every route. Naming the whole family also keeps FastAPI's own 422 out, which this server never sends."""


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _answer(kind: str, choice: str) -> Schema:
    """The envelope around the choices, which is the same for whole answers and for chunks."""
    properties = {
        "id": {"type": "string"},
        "object": {"const": kind},
        "created": {"type": "integer"},
        "model": {"type": "string"},
        "choices": {"type": "array", "items": _reference(choice)},
        "usage": {"anyOf": [_reference("Usage"), {"type": "null"}]},
    }
    return {"type": "object", "properties": properties, "required": ["id", "object", "created", "model", "choices"]}


_ANSWERS = {
    "Completion": _answer("text_completion", "CompletionChoice"),
    "ChatCompletion": _answer("chat.completion", "ChatChoice"),
    "ChatCompletionChunk": _answer("chat.completion.chunk", "ChatChunkChoice"),
}


def _events(data: str) -> dict[str, Any]:
    """Server-sent events, by what the `data` of each is."""
    properties = {"data": {"type": "string", "description": data}}
    return {"text/event-stream": {"itemSchema": {"type": "object", "properties": properties, "required": ["data"]}}}


def _generation(whole: str, chunk: str) -> Responses:
    events = _events(f"{chunk} in JSON, or an error; at last `[DONE]`")
    content = {"application/json": {"schema": _reference(whole)}, **events}
    return {200: {"description": "The whole answer, or with `stream` a stream of chunks", "content": content}}


def _json(name: str) -> Responses:
    return {200: {"description": "Done", "content": {"application/json": {"schema": _reference(name)}}}}


COMPLETIONS = _generation("Completion", "Completion")
CHAT_COMPLETIONS = _generation("ChatCompletion", "ChatCompletionChunk")
TOKENIZE = _json("Tokenized")
DETOKENIZE = _json("Detokenized")
BLOCK_MAP = _json("BlockMapOut")
REQUEST_STATES = _json("RequestStatesOut")
ATTENTION = _json("AttentionOut")


COMPARISON = _json("ComparisonRecord")
COMPARISON_STARTED: Responses = {202: {**COMPARISON[200], "description": "It has begun"}}
COMPARISONS: Responses = {
    200: {
        "description": "Without their results",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "object": {"const": "list"},
                        "data": {"type": "array", "items": _reference("ComparisonRecord")},
                    },
                    "required": ["object", "data"],
                }
            }
        },
    }
}
COMPARISON_EVENTS: Responses = {
    200: {
        "description": "From the start on",
        "content": _events("an event in JSON, whose `type` is progress, variant or end; at last `[DONE]`"),
    }
}


def install_openapi(app: FastAPI) -> None:
    """Add the shapes that FastAPI does not know, because they are no pydantic models, to the description of `app`."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        schema = generate()
        _, components = msgspec.json.schema_components(_STRUCTS, ref_template="#/components/schemas/{name}")
        schema.setdefault("components", {}).setdefault("schemas", {}).update({**components, **_ANSWERS})
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
