"""HTTP connections that nobody can hold open for nothing: bounds of time and size below what ASGI sees.

Two ends that do not answer are told apart. A peer that is gone without a word is found by TCP itself (`watch_peers`); one
that is there but does not send, or does not read, by the timers of the protocol.
"""

import asyncio
import http
import logging
import socket
from typing import Any, ClassVar

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from configs.http import HTTPSettings
from server.errors import APIError, error_body, headers_too_large, invalid_request, too_many_connections, too_slow

logger = logging.getLogger("headcount.server")

TCP_OPTIONS = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 60_000}
"""Of Linux: a peer that says nothing for 30 s is asked three times, and unacknowledged data waits a minute (in ms)."""


def watch_peers(listener: socket.socket) -> None:
    """Let TCP end the connections of `listener` whose other end is gone; they inherit its options."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in TCP_OPTIONS.items():
        if (option := getattr(socket, name, None)) is not None:
            listener.setsockopt(socket.IPPROTO_TCP, option, value)


def bounded_protocol(settings: HTTPSettings) -> type["BoundedProtocol"]:
    """What uvicorn makes of every connection, with these limits."""

    class Bounded(BoundedProtocol):
        limits = settings

    return Bounded


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with a bound on what it leaves open.

    * Headers that do not end are refused by their size (431) and by the time they take (408). Complete ones are counted
      by the middleware, where the refusal has a request id and a line in the log.
    * A response that is not read is cut off: the transport is full, and stays so for `unread_timeout_s`.
    * A request that is no HTTP is answered in the envelope of all errors.

    Attributes:
        limits: of every connection of a server.
    """

    limits: ClassVar[HTTPSettings] = HTTPSettings()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first headers, or refuse one connection too many."""
        super().connection_made(transport)
        self._num_head_bytes = 0
        self._is_head_complete = False
        self._unread_timer: asyncio.TimerHandle | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        if len(self.connections) > self.limits.max_num_connections:
            self._refuse(too_many_connections(self.limits.max_num_connections))
        else:
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        _cancel(self._head_timer, self._unread_timer)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, and count what belongs to headers that have not ended."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._is_head_complete or self.parser is None:
            return
        self._num_head_bytes += len(data)
        if self._num_head_bytes > self.limits.max_header_bytes and not self.transport.is_closing():
            self._refuse(headers_too_large(self.limits.max_header_bytes))

    def on_message_begin(self) -> None:
        """The first byte of a request: its headers have a limit of their own."""
        super().on_message_begin()
        self._num_head_bytes, self._is_head_complete = 0, False
        self._wait_for_head()

    def on_headers_complete(self) -> None:
        """From here on the application's limits hold."""
        self._is_head_complete = True
        _cancel(self._head_timer)
        super().on_headers_complete()

    def pause_writing(self) -> None:
        """The other end does not read, or not fast enough."""
        super().pause_writing()
        self._unread_timer = self.loop.call_later(self.limits.unread_timeout_s, self._cut_off)

    def resume_writing(self) -> None:
        """It has read."""
        _cancel(self._unread_timer)
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        self._refuse(invalid_request("this is not a valid HTTP/1.1 request", code="invalid_http"))

    def _wait_for_head(self) -> None:
        _cancel(self._head_timer)
        self._head_timer = self.loop.call_later(self.limits.receive_timeout_s, self._head_is_late)

    def _head_is_late(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._wait_for_head()  # the response before it still goes out
        elif self.headers:
            self._refuse(too_slow(self.limits.receive_timeout_s))
        else:
            self.transport.close()

    def _cut_off(self) -> None:
        logger.warning("a client left its response unread for %g s: it is cut off", self.limits.unread_timeout_s)
        self.transport.abort()  # close() would wait for it to read what is buffered

    def _refuse(self, error: APIError) -> None:
        """Answer without the application, and close."""
        body = msgspec.json.encode(error_body(error))
        status = http.HTTPStatus(error.status)
        headers: dict[str, Any] = {"Content-Type": "application/json", "Content-Length": len(body)}
        headers |= {**error.headers, "Connection": "close"}
        lines = [f"HTTP/1.1 {status.value} {status.phrase}", *(f"{name}: {value}" for name, value in headers.items())]
        self.transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        self.transport.close()


def _cancel(*timers: asyncio.TimerHandle | None) -> None:
    for timer in timers:
        if timer is not None:
            timer.cancel()
