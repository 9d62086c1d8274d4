"""One line in the log for every request: method, path, status, milliseconds, request id. Never what was asked."""

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.dashboard.paths import is_dashboard
from server.errors import MAX_ECHO_CHARS, printable

logger = logging.getLogger("headcount.access")

PROBES = frozenset({"/health", "/ready", "/metrics", "/v1/kv", "/v1/kv/blocks"})
"""Asked for every few seconds, by machines and by an open dashboard: told only at level DEBUG, as are the dashboard's own
files. What they find wrong has log lines of its own."""
CLIENT_CLOSED_REQUEST = 499
"""Told where the client left before its response was complete."""


class AccessLogMiddleware:
    """Writes the line when a response has ended.

    Args:
        app: what comes next. The request's id must be known already.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and tell of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(receive, send)
        start_s = time.perf_counter()
        try:
            await self._app(scope, exchange.receive, exchange.send)
        finally:
            duration_ms = (time.perf_counter() - start_s) * 1000
            is_quiet = scope["path"] in PROBES or is_dashboard(scope["path"])
            level = logging.DEBUG if is_quiet else logging.INFO
            path, request_id = printable(scope["path"][:MAX_ECHO_CHARS]), scope["state"]["request_id"]
            line = "%s %s %d %.1f ms %s"
            logger.log(level, line, scope["method"], path, exchange.status, duration_ms, request_id)


class _Exchange:
    """Watches what goes both ways."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._status = 500  # what the outermost handler answers where nothing else did
        self._is_complete = False
        self._is_client_gone = False

    @property
    def status(self) -> int:
        is_cut = self._is_client_gone and not self._is_complete
        return CLIENT_CLOSED_REQUEST if is_cut else self._status

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._is_client_gone = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
        elif not message.get("more_body", False):
            self._is_complete = True
        await self._send(message)
