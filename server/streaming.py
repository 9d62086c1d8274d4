"""Server-sent events, and noticing that a client is gone."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from typing import TypeVar

import msgspec
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response, StreamingResponse

from server.errors import error_body, error_of
from server.generation import run_choices
from server.protocol.generation import StreamOptions
from server.protocol.responses import Answer
from server.text_assembler import Piece
from server.writers.base import Writer

logger = logging.getLogger("headcount.server")

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"

CLIENT_CLOSED_REQUEST = 499
"""For the log alone: nobody is there to read it."""

T = TypeVar("T")


class ClientGoneError(Exception):
    """The client closed the connection before its response was complete."""


async def respond(http_request: HTTPRequest, writer: Writer) -> Response:
    """The whole response as JSON; a client that goes away meanwhile aborts its requests."""
    try:
        answer = await until_disconnect(http_request, _collect(writer))
    except ClientGoneError:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    finally:
        for choice in writer.choices:
            choice.close()
    return Response(msgspec.json.encode(answer), media_type="application/json")


def respond_streaming(writer: Writer, options: StreamOptions | None, keep_alive_interval_s: float) -> Response:
    """The response as server-sent events."""
    events = stream_events(writer, options or StreamOptions(), keep_alive_interval_s)
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


async def stream_events(writer: Writer, options: StreamOptions, keep_alive_interval_s: float) -> AsyncIterator[bytes]:
    """Opening, chunks, usage where asked for, [DONE]; an error on the way is one event before [DONE].

    Closing it (the client went away) aborts all of the request's choices.
    """
    events = run_choices(writer.choices, keep_alive_interval_s)
    try:
        for answer in writer.opening():
            yield _frame(writer, answer, options)
        async for event in events:
            if event is None:
                yield KEEP_ALIVE
                continue
            for answer in writer.chunks(event):
                yield _frame(writer, answer, options)
        if options.include_usage:
            yield _data(writer.usage_chunk())
    except Exception as error:
        yield _data(error_body(error_of(error)))
    finally:
        await events.aclose()  # type: ignore[attr-defined]
    yield DONE


async def until_disconnect(http_request: HTTPRequest, work: Coroutine[None, None, T]) -> T:
    """The result of `work`, which is cancelled when the client goes away first.

    Raises:
        ClientGoneError: it went away.
    """
    task = asyncio.create_task(work)
    watcher = asyncio.create_task(_disconnected(http_request))
    try:
        await asyncio.wait((task, watcher), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        watcher.cancel()
        task.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


async def _disconnected(http_request: HTTPRequest) -> None:
    while (await http_request.receive())["type"] != "http.disconnect":
        pass


async def _collect(writer: Writer) -> Answer:
    pieces: dict[int, list[Piece]] = {choice.index: [] for choice in writer.choices}
    async for event in run_choices(writer.choices):
        if event is not None:
            pieces[event.choice.index].append(event.piece)
    return writer.whole(pieces)


def _frame(writer: Writer, answer: Answer, options: StreamOptions) -> bytes:
    if options.include_usage or options.continuous_usage_stats:
        writer.add_usage(answer, is_known=options.continuous_usage_stats)
    return _data(answer)


def _data(content: object) -> bytes:
    return b"data: " + msgspec.json.encode(content) + b"\n\n"
