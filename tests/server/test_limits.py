"""A body over the limit is refused, however it comes."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from configs.http import HTTPSettings
from server.limits import RequestLimitsMiddleware
from tests.server.stand_ins import connect

pytestmark = pytest.mark.anyio

LIMIT = 10


async def repeat(request: Request) -> PlainTextResponse:
    return PlainTextResponse(await request.body())


def make_app() -> RequestLimitsMiddleware:
    return protect(Starlette(routes=[Route("/", repeat, methods=["GET", "POST"])]), max_body_bytes=LIMIT)


def protect(app: Any, **limits: Any) -> RequestLimitsMiddleware:
    return RequestLimitsMiddleware(app, HTTPSettings(**limits))


async def chunks(*sizes: int) -> AsyncIterator[bytes]:
    for size in sizes:
        yield b"x" * size


@pytest.mark.parametrize("size", [0, 1, LIMIT])
async def test_a_body_within_the_limit_arrives_whole(size: int) -> None:
    async with connect(make_app()) as client:
        response = await client.post("/", content=b"x" * size)
    assert (response.status_code, response.text) == (200, "x" * size)


async def test_a_chunked_body_within_the_limit_arrives_whole() -> None:
    async with connect(make_app()) as client:
        response = await client.post("/", content=chunks(4, 0, 6))
    assert (response.status_code, response.text) == (200, "x" * LIMIT)


@pytest.mark.parametrize("content", [b"x" * (LIMIT + 1), None])
async def test_a_larger_body_is_a_413(content: bytes | None) -> None:
    async with connect(make_app()) as client:
        response = await client.post("/", content=content or chunks(4, 4, 4))
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["code"]) == (413, "invalid_request_error", "body_too_large")
    assert str(LIMIT) in error["message"]


class Connection:
    """What an ASGI server gives an application, message by message."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.messages = list(messages)
        self.num_received = 0
        self.sent: list[Any] = []

    async def receive(self) -> Any:
        self.num_received += 1
        return self.messages.pop(0)

    async def send(self, message: Any) -> None:
        self.sent.append(message)


def scope_with(content_length: bytes) -> dict[str, Any]:
    return {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-length", content_length)]}


@pytest.mark.parametrize("content_length", [b"11", b"9" * 5000])
async def test_a_body_that_says_it_is_too_large_is_not_read(content_length: bytes) -> None:
    connection = Connection()
    await make_app()(scope_with(content_length), connection.receive, connection.send)
    assert connection.sent[0]["status"] == 413
    assert connection.num_received == 0


async def test_a_body_that_lies_about_its_length_is_counted() -> None:
    connection = Connection({"type": "http.request", "body": b"x" * 11, "more_body": True})
    await make_app()(scope_with(b"-5"), connection.receive, connection.send)
    assert connection.sent[0]["status"] == 413
    assert connection.num_received == 1


async def test_a_disconnect_reaches_the_application() -> None:
    seen: list[Any] = []

    async def listen(scope: Any, receive: Any, send: Any) -> None:
        seen.extend([await receive(), await receive(), await receive()])

    body = [{"type": "http.request", "body": b"a", "more_body": True}, {"type": "http.request", "body": b"b"}]
    connection = Connection(*body, {"type": "http.disconnect"})
    await protect(listen)(scope_with(b"2"), connection.receive, connection.send)
    assert seen == [*body, {"type": "http.disconnect"}]

    early = Connection({"type": "http.request", "body": b"a", "more_body": True}, {"type": "http.disconnect"})
    early.messages.append({"type": "http.disconnect"})
    seen.clear()
    await protect(listen)(scope_with(b"2"), early.receive, early.send)
    assert [message["type"] for message in seen] == ["http.request", "http.disconnect", "http.disconnect"]


async def test_other_scopes_pass() -> None:
    seen: list[str] = []

    async def record(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    connection = Connection()
    await protect(record)({"type": "lifespan"}, connection.receive, connection.send)
    assert seen == ["lifespan"]


async def post(app: Any, content: Any, **options: Any) -> Any:
    async with connect(app) as client:
        return await client.post("/", content=content, **options)


def whole() -> Starlette:
    return Starlette(routes=[Route("/", repeat, methods=["POST"])])


async def test_headers_over_the_limit_are_a_431() -> None:
    app = protect(whole(), max_header_bytes=2000)
    assert (await post(app, b"", headers={"X-Long": "x" * 1000})).status_code == 200
    response = await post(app, b"", headers={"X-Long": "x" * 2000})
    assert (response.status_code, response.json()["error"]["code"]) == (431, "headers_too_large")
    assert (await post(app, b"", params={"q": "x" * 2000})).status_code == 431


def nested(depth: int) -> bytes:
    return b'{"a":[' * (depth // 2) + b"[" * (depth % 2) + b"]" * (depth % 2) + b"]}" * (depth // 2)


@pytest.mark.parametrize("depth", [1, 5, 100])
async def test_a_body_within_the_depth_passes(depth: int) -> None:
    assert (await post(protect(whole()), nested(depth))).status_code == 200


@pytest.mark.parametrize("content", [nested(101), nested(300_000), b"[" * 100_000, b'{"a":' * 101 + b'"]]]]'])
async def test_a_deeper_one_is_a_400(content: bytes) -> None:
    response = await post(protect(whole()), content)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "json_too_deep")
    assert "100" in error["message"]


@pytest.mark.parametrize(
    "text", ["[" * 500, "{[" * 500, '"' + "[" * 500, "\\" + "[" * 500, "\\" * 3 + '"[' * 300, "\n]" * 300 + "{" * 300]
)
async def test_brackets_in_texts_and_beside_each_other_do_not_count(text: str) -> None:
    body = json.dumps({"prompt": text, "more": [[text]] * 100}).encode()
    assert (await post(protect(whole()), body)).status_code == 200


async def test_the_worst_body_is_counted_in_a_moment() -> None:
    for content in (b"[]" * 1_000_000, b'"' * 2_000_000, b'"\\' * 1_000_000, b"[" * 2_000_000):
        start_s = time.process_time()
        await post(protect(whole()), content)
        assert time.process_time() - start_s < 3, content[:2]


async def test_a_body_that_takes_too_long_is_a_408() -> None:
    async def slowly() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.sleep(30)

    response = await post(protect(whole(), receive_timeout_s=0.05), slowly())
    assert (response.status_code, response.json()["error"]["code"]) == (408, "receive_timeout")
    assert response.headers["connection"] == "close"
