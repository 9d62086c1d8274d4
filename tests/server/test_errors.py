"""Every error has the envelope, says what to change, and leaks nothing."""

import json
from typing import Annotated, Any, Literal

import pytest
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from engine.errors import EngineError, EngineUnavailableError, ModelLoadError, QueueFullError, RequestRefusedError
from server.errors import (
    APIError,
    echo,
    error_body,
    error_of,
    from_validation,
    invalid_request,
    model_not_found,
    printable,
)
from server.request_id import RequestIdMiddleware
from tests.server.stand_ins import FakeState, connect, make_app

pytestmark = pytest.mark.anyio


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid")
    role: Literal["user", "system"]
    content: str


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid")
    include_usage: bool = False


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")
    prompt: str | list[str] | list[int] | list[list[int]] = ""
    messages: list[Message] = []
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_logprobs: int = Field(default=0, ge=0, le=20)
    stop: Annotated[list[str], Field(max_length=4)] = []
    stream_options: Options | None = None
    suffix: str | None = None
    model: str = Field(default="tiny", min_length=1)

    @field_validator("suffix")
    @classmethod
    def _no_suffix(cls, value: str | None) -> str | None:
        if value == "custom":
            raise PydanticCustomError("unsupported_field", "suffix needs infill tokens, which this model lacks")
        if value == "plain":
            raise ValueError("suffix must not be plain")
        return value


def make_routes() -> FastAPI:
    app = make_app(FakeState())

    @app.post("/body")
    async def take_body(body: Body) -> dict[str, str]:
        return {"model": body.model}

    @app.get("/raise/{name}")
    async def fail(name: str) -> None:
        raise RAISED[name]

    return app


RAISED: dict[str, Exception] = {
    "refused": RequestRefusedError("too long", code="context_length_exceeded", param="prompt"),
    "full": QueueFullError("5 wait already", retry_after_s=1.2),
    "loading": EngineUnavailableError("the engine is loading", retry_after_s=5.0),
    "draining": EngineUnavailableError("the server is shutting down", retry_after_s=0.1, code="draining"),
    "api": invalid_request("n must be at most 4, got 9", code="invalid_value", param="n"),
    "bug": RuntimeError("the secret path /home/somebody/model"),
    "load": ModelLoadError("the secret path /home/somebody/model"),
}


async def post(content: Any, **headers: str) -> tuple[int, dict[str, Any]]:
    """Status and inner error of a POST to /body."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    async with connect(make_routes()) as client:
        response = await client.post("/body", content=data, headers={"Content-Type": "application/json", **headers})
    body = response.json()
    assert list(body) == ["error"]
    assert list(body["error"]) == ["message", "type", "param", "code"]
    return response.status_code, body["error"]


@pytest.mark.parametrize(
    ("body", "param", "code", "words"),
    [
        ({"temprature": 1}, "temprature", "unknown_field", ["'temprature'", "did you mean 'temperature'?"]),
        ({"zzz": 1}, "zzz", "unknown_field", ["'zzz'", "remove it"]),
        (
            {"stream_options": {"include_usge": True}},
            "stream_options.include_usge",
            "unknown_field",
            ["'include_usage'"],
        ),
        (
            {"messages": [{"role": "user", "content": "x", "contnt": 1}]},
            "messages[0].contnt",
            "unknown_field",
            ["in messages[0]", "did you mean 'content'?"],
        ),
        (
            {"messages": [{"role": "user", "contnt": "x"}]},
            "messages[0].contnt",
            "unknown_field",
            ["did you mean 'content'?"],
        ),
        ({"messages": [{"zzz": 1}, {"role": "user"}]}, "messages[0].zzz", "unknown_field", ["remove it"]),
        ({"temperature": 3}, "temperature", "invalid_value", ["temperature must be less than or equal to 2, got 3"]),
        ({"temperature": "hot"}, "temperature", "invalid_type", ["must be a number", "got 'hot'"]),
        ({"top_logprobs": 2.5}, "top_logprobs", "invalid_type", ["must be an integer", "got 2.5"]),
        ({"temperature": None}, "temperature", "invalid_type", ["got null"]),
        ({"stop": ["a"] * 9}, "stop", "invalid_value", ["stop must have at most 4 items, got an array of 9"]),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_field", ["is required"]),
        ({"messages": [{"role": "cat", "content": ""}]}, "messages[0].role", "invalid_value", ["'user' or 'system'"]),
        ({"messages": {"role": "user"}}, "messages", "invalid_type", ["must be an array, got an object"]),
        ({"prompt": 5}, "prompt", "invalid_type", ["prompt must be a string or an array, got 5"]),
        ({"prompt": ["a", True]}, "prompt[1]", "invalid_type", ["got true"]),
        ({"suffix": "custom"}, "suffix", "unsupported_field", ["needs infill tokens"]),
        ({"suffix": "plain"}, "suffix", "invalid_value", ["suffix must not be plain"]),
        ({"model": ""}, "model", "invalid_value", ["model must have at least 1 character, got ''"]),
        ({"prompt": {}}, "prompt", "invalid_type", ["prompt must be a string or an array, got an object"]),
        ({"stream_options": 3}, "stream_options", "invalid_type", ["stream_options must be an object, got 3"]),
        ({"model": "\ud800"}, "model", "invalid_value", ["must be valid Unicode", r"got '\ud800'"]),
        ([1, 2], None, "invalid_type", ["the request body must be an object, got an array of 2"]),
        (b"", None, "missing_field", ["the request body is required"]),
        (b'{"model": ', None, "invalid_json", ["not valid JSON", "character 10"]),
        (b'{"model": "\xff"}', None, "invalid_json", ["cannot be read as JSON"]),
        (b"[" * 100_000, None, "invalid_json", ["JSON"]),
        (b'{"top_logprobs": ' + b"9" * 5000 + b"}", None, "invalid_json", ["cannot be read as JSON"]),
    ],
)
async def test_a_wrong_body_is_a_400_that_names_the_field(
    body: Any, param: str | None, code: str, words: list[str]
) -> None:
    status, error = await post(body)
    assert (status, error["type"], error["code"], error["param"]) == (400, "invalid_request_error", code, param)
    for word in words:
        assert word in error["message"]


async def test_a_body_that_is_not_declared_as_json_is_told_how() -> None:
    status, error = await post(b'{"model": "tiny"}', **{"Content-Type": "text/plain"})
    assert (status, error["code"]) == (400, "invalid_json")
    assert "Content-Type: application/json" in error["message"]


async def test_echoed_input_is_cut_and_escaped() -> None:
    _, error = await post({"temperature": "\x1b[31m\n" + "x" * 5000})
    assert "\x1b" not in error["message"] and "\\x1b[31m\\n" in error["message"]
    assert len(error["message"]) < 400
    _, error = await post({"\n" + "k" * 5000: 1})
    assert len(error["param"]) < 220 and len(error["message"]) < 400


def test_echo() -> None:
    assert echo("a\x00b\u202e\ud800") == r"'a\x00b\u202e\ud800'"
    assert echo("x" * 201) == "'" + "x" * 200 + "'…"
    assert echo("ä 🌍") == "'ä 🌍'"
    assert echo(None) == "null" and echo(True) == "true" and echo(1.5) == "1.5"
    assert echo(10**5000) == "a number of very many digits"
    assert echo({"a": 1}) == "an object" and echo(b"raw") == "'raw'"
    assert echo({1}) == "{1}"
    assert printable("a\tb") == r"a\tb"


def test_a_plain_validation_error_is_read_without_its_body() -> None:
    with pytest.raises(ValidationError) as caught:
        Body.model_validate({"temperature": 9})
    error = from_validation(caught.value, model=Body)
    assert (error.param, error.code) == ("temperature", "invalid_value")


@pytest.mark.parametrize(
    ("name", "status", "kind", "code", "param", "retry_after"),
    [
        ("refused", 400, "invalid_request_error", "context_length_exceeded", "prompt", None),
        ("full", 429, "rate_limit_error", "queue_full", None, "2"),
        ("loading", 503, "server_error", "engine_unavailable", None, "5"),
        ("draining", 503, "server_error", "draining", None, "1"),
        ("api", 400, "invalid_request_error", "invalid_value", "n", None),
    ],
)
async def test_what_a_route_raises_becomes_the_envelope(
    name: str, status: int, kind: str, code: str, param: str | None, retry_after: str | None
) -> None:
    async with connect(make_routes()) as client:
        response = await client.get(f"/raise/{name}")
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["code"], error["param"]) == (status, kind, code, param)
    assert error["message"] == str(RAISED[name])
    assert response.headers.get("Retry-After") == retry_after


@pytest.mark.parametrize("name", ["bug", "load"])
async def test_a_bug_is_logged_and_not_told(name: str, caplog: pytest.LogCaptureFixture) -> None:
    app = RequestIdMiddleware(make_routes())
    async with connect(app, raise_app_exceptions=False) as client:
        response = await client.get(f"/raise/{name}", headers={"X-Request-Id": "mine"})
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"
    assert "secret" not in response.text
    assert response.headers["X-Request-Id"] == "mine"
    assert any(record.exc_info for record in caplog.records) and "secret" in caplog.text


async def test_unknown_routes_and_methods() -> None:
    async with connect(make_routes()) as client:
        missing = await client.get("/v1/nothing")
        wrong = await client.get("/body")
    assert missing.status_code == 404
    assert missing.json()["error"]["type"] == "not_found_error"
    assert missing.json()["error"]["code"] == "route_not_found"
    assert wrong.status_code == 405
    assert wrong.json()["error"]["code"] == "method_not_allowed"
    assert wrong.headers["Allow"] == "POST"


def test_an_unknown_model_is_named_and_so_are_the_served_ones() -> None:
    error = model_not_found("demmo", ["demo", "other"])
    assert (error.status, error.type, error.code, error.param) == (404, "not_found_error", "model_not_found", "model")
    assert "'demmo'" in error.message and "did you mean 'demo'?" in error.message and "'other'" in error.message
    assert "served models: none" in model_not_found("x\n", []).message
    assert "\n" not in model_not_found("x\n", []).message


def test_error_of_keeps_an_api_error_and_hides_an_unknown_engine_error() -> None:
    error = APIError(418, "short", "invalid_request_error", "teapot")
    assert error_of(error) is error
    assert str(error) == "short"
    assert error_body(error) == {
        "error": {"message": "short", "type": "invalid_request_error", "param": None, "code": "teapot"}
    }
    assert error_of(EngineError("a secret")).message != "a secret"
