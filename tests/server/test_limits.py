"""A body over the limit is refused, however it comes."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from server.limits import BodyLimitMiddleware
from tests.server.stand_ins import connect

pytestmark = pytest.mark.anyio

LIMIT = 10


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def repeat(request: Request) -> PlainTextResponse:
    return PlainTextResponse(await request.body())


def make_app() -> BodyLimitMiddleware:
    return BodyLimitMiddleware(Starlette(routes=[Route("/", repeat, methods=["GET", "POST"])]), LIMIT)


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
    await BodyLimitMiddleware(listen, LIMIT)(scope_with(b"2"), connection.receive, connection.send)
    assert seen == [*body, {"type": "http.disconnect"}]

    early = Connection({"type": "http.request", "body": b"a", "more_body": True}, {"type": "http.disconnect"})
    early.messages.append({"type": "http.disconnect"})
    seen.clear()
    await BodyLimitMiddleware(listen, LIMIT)(scope_with(b"2"), early.receive, early.send)
    assert [message["type"] for message in seen] == ["http.request", "http.disconnect", "http.disconnect"]


async def test_other_scopes_pass() -> None:
    seen: list[str] = []

    async def record(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    connection = Connection()
    await BodyLimitMiddleware(record, LIMIT)({"type": "lifespan"}, connection.receive, connection.send)
    assert seen == ["lifespan"]
