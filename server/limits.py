"""How much a client may send, and for how long: what is over a limit is refused before anything reads it as a whole."""

import asyncio
import itertools
import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from configs.http import HTTPSettings
from server.errors import APIError, body_too_large, error_response, headers_too_large, invalid_request, too_slow

STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
STEPS = {byte: 1 if byte in b"[{" else -1 for byte in b"[]{}"}


class RequestLimitsMiddleware:
    """Refuses headers (431), a body (413) and nesting (400) over the limits, and a body that takes too long (408).

    A body is refused by its Content-Length or while it comes in. It is collected here and handed on afterwards, so that
    the refusal never meets a response that has begun.

    Args:
        app: what is protected.
        http: the limits.
    """

    def __init__(self, app: ASGIApp, http: HTTPSettings) -> None:
        self._app = app
        self._http = http

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            check_header_size(scope, self._http.max_header_bytes)
            messages = await self._read_in_time(scope, receive)
            check_json_depth(messages, self._http.max_json_depth)
        except APIError as error:
            await error_response(error)(scope, receive, send)
        else:
            await self._app(scope, _replay(messages, receive), send)

    async def _read_in_time(self, scope: Scope, receive: Receive) -> list[Message]:
        limit = self._http.max_body_bytes
        if _content_length(scope) > limit:
            raise body_too_large(limit)
        try:
            async with asyncio.timeout(self._http.receive_timeout_s):
                return await _read(receive, limit)
        except TimeoutError:
            raise too_slow(self._http.receive_timeout_s) from None


def check_header_size(scope: Scope, max_header_bytes: int) -> None:
    """Count the request line and the headers.

    Raises:
        APIError: they are larger than that (431).
    """
    num_bytes = len(scope.get("raw_path") or b"") + len(scope.get("query_string", b""))
    num_bytes += sum(len(name) + len(value) for name, value in scope["headers"])
    if num_bytes > max_header_bytes:
        raise headers_too_large(max_header_bytes)


def check_json_depth(messages: list[Message], max_depth: int) -> None:
    """Count how deep a body's brackets stand inside each other, those in texts left out.

    A parser goes down a level with each of them, and would come to the end of its stack.

    Raises:
        APIError: deeper than `max_depth` (400).
    """
    body = b"".join(message.get("body", b"") for message in messages)
    if body.count(b"[") + body.count(b"{") <= max_depth:
        return
    brackets = STRING.sub(b"", body).translate(None, NOT_BRACKETS)
    depth = max(itertools.accumulate(map(STEPS.__getitem__, brackets)), default=0)
    if depth > max_depth:
        message = f"the request body may nest {max_depth} arrays and objects, got {depth} inside each other"
        raise invalid_request(message, code="json_too_deep")


async def _read(receive: Receive, limit: int) -> list[Message]:
    """All messages of the body, or of what came of it before the client left.

    Raises:
        APIError: it is too large (413).
    """
    messages: list[Message] = []
    num_bytes = 0
    while True:
        message = await receive()
        messages.append(message)
        num_bytes += len(message.get("body", b""))
        if num_bytes > limit:
            raise body_too_large(limit)
        if message["type"] != "http.request" or not message.get("more_body", False):
            return messages


def _content_length(scope: Scope) -> int:
    """What the header says, 0 where it says nothing: the bytes that really come are counted anyway."""
    value: bytes = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
    # 18 digits are more than any limit, and int() refuses numbers of thousands of digits.
    return int(value[:18]) if value.isdigit() else 0


def _replay(messages: list[Message], receive: Receive) -> Receive:
    """`messages` first, then what the connection goes on to say."""
    pending = iter(messages)

    async def replay() -> Message:
        for message in pending:
            return message
        return await receive()

    return replay
