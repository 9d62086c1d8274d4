"""Server-sent events, and noticing that a client is gone."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import TypeVar

import msgspec
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from server.errors import error_body, error_of
from server.generation import run_choices
from server.protocol.generation import StreamOptions
from server.protocol.responses import Answer
from server.text_assembler import Piece
from server.writers.base import Writer

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"

LINE_BREAKS = [(char.encode(), f"\\u{ord(char):04x}".encode()) for char in "\x85\u2028\u2029"]
"""Characters that JSON allows as they are, but at which many clients end a line, as Python's splitlines does."""

CLIENT_CLOSED_REQUEST = 499
"""For the log alone: nobody is there to read it."""

T = TypeVar("T")


class ClientGoneError(Exception):
    """The client closed the connection before its response was complete."""


async def respond(http_request: HTTPRequest, writer: Writer) -> Response:
    """The whole response as JSON; a client that goes away meanwhile aborts its requests."""
    try:
        answer = await until_disconnect(http_request.receive, _collect(writer))
    except ClientGoneError:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    finally:
        writer.close()
    return Response(msgspec.json.encode(answer), media_type="application/json")


class SentEvents(StreamingResponse):
    """A response of server-sent events.

    Args:
        events: what is sent, framed.
        close: called once the response has ended, however it ended.
        keep_alive_interval_s: after this long without an event a comment is sent, so that proxies keep it open.
    """

    def __init__(
        self, events: AsyncGenerator[bytes, None], close: Callable[[], None], keep_alive_interval_s: float
    ) -> None:
        self._events = events
        self._close = close
        self._interval_s = keep_alive_interval_s
        self._last_sent_s = 0.0
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(self._events, media_type="text/event-stream", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all events, or as many as the client stays for."""
        try:
            with contextlib.suppress(ClientGoneError):
                await until_disconnect(receive, self._send_all(send))
        finally:
            self._close()  # also where the client left before the first event was asked for

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        clock = asyncio.get_running_loop().time
        self._last_sent_s = clock()
        keep_alive = asyncio.create_task(self._keep_alive(send))
        try:
            async with aclosing(self._events) as events:
                async for data in events:
                    self._last_sent_s = clock()
                    await send({"type": "http.response.body", "body": data, "more_body": True})
        finally:
            keep_alive.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _keep_alive(self, send: Send) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            pause_s = self._last_sent_s + self._interval_s - clock()
            if pause_s > 0:
                await asyncio.sleep(pause_s)
                continue
            self._last_sent_s = clock()
            await send({"type": "http.response.body", "body": KEEP_ALIVE, "more_body": True})


class EventStream(SentEvents):
    """A generation's response as server-sent events. Its choices end with it, however it ends.

    Args:
        writer: makes the chunks.
        options: what the stream tells beside the text.
        keep_alive_interval_s: see SentEvents.
    """

    def __init__(self, writer: Writer, options: StreamOptions | None, keep_alive_interval_s: float) -> None:
        super().__init__(stream_events(writer, options or StreamOptions()), writer.close, keep_alive_interval_s)


async def stream_events(writer: Writer, options: StreamOptions) -> AsyncGenerator[bytes, None]:
    """Opening, chunks, usage where asked for, [DONE]; an error on the way is one event before [DONE].

    Closing it (the client went away) aborts all of the request's choices.
    """
    try:
        for answer in writer.opening():
            yield _frame(writer, answer, options)
        async with aclosing(run_choices(writer.choices)) as events:
            async for event in events:
                for answer in writer.chunks(event):
                    yield _frame(writer, answer, options)
        if options.include_usage:
            yield data_event(writer.usage_chunk())
    except Exception as error:
        yield data_event(error_body(error_of(error)))
    finally:
        writer.close()
    yield DONE


async def until_disconnect(receive: Receive, work: Coroutine[None, None, T]) -> T:
    """The result of `work`, which is cancelled when the client goes away first.

    Raises:
        ClientGoneError: it went away.
    """
    task = asyncio.create_task(work)
    watcher = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait((task, watcher), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        watcher.cancel()
        task.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _collect(writer: Writer) -> Answer:
    pieces: dict[int, list[Piece]] = {choice.index: [] for choice in writer.choices}
    async for event in run_choices(writer.choices):
        pieces[event.choice.index].append(event.piece)
    return writer.whole(pieces)


def _frame(writer: Writer, answer: Answer, options: StreamOptions) -> bytes:
    if options.include_usage or options.continuous_usage_stats:
        writer.add_usage(answer, is_known=options.continuous_usage_stats)
    return data_event(answer)


def data_event(content: object) -> bytes:
    """One event that holds `content` as JSON."""
    data = msgspec.json.encode(content)
    for char, escaped in LINE_BREAKS:
        data = data.replace(char, escaped)
    return b"data: " + data + b"\n\n"
