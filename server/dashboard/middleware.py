"""The way to the dashboard: its paths branch off before the API's own checks, behind a gate of their own."""

import asyncio
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import quote

from starlette.datastructures import MutableHeaders
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.dashboard.paths import FAVICON, PAGES, SIGN_IN, is_dashboard
from server.dashboard.sessions import COOKIE, Sessions
from server.dashboard.theme import favicon, sign_in_page

CONTENT_SECURITY_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'none';"
    " form-action 'self'; frame-ancestors 'none'"
)
"""The browser itself keeps every request on this host. Vue compiles its templates in the page, hence 'unsafe-eval'."""
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
UNAUTHORIZED = {
    "error": {
        "message": f"the dashboard asks for the API key; open {SIGN_IN}",
        "type": "authentication_error",
        "param": None,
        "code": "invalid_api_key",
    }
}


class DashboardMiddleware:
    """Answers the dashboard's paths and passes all others on.

    Args:
        app: the API, with its own checks.
        load: makes the application behind the pages; called in a thread when the first page is asked for.
        needs_key: whether the API asks for a key now.
        sessions: who has signed in with one.
    """

    def __init__(
        self, app: ASGIApp, load: Callable[[], ASGIApp], needs_key: Callable[[], bool], sessions: Sessions
    ) -> None:
        self._app = app
        self._needs_key = needs_key
        self._sessions = sessions
        self._pages = LazyApp(load)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass the request on."""
        if scope["type"] == "lifespan" or not is_dashboard(scope["path"]):
            await self._app(scope, receive, send)
            return
        app: ASGIApp = self._at_the_gate(scope) or self._pages
        await app(scope, receive, _with_headers(send))

    def _at_the_gate(self, scope: Scope) -> ASGIApp | None:
        """What is answered in place of a page; None: come in."""
        path = scope["path"]
        if path == FAVICON:
            return Response(favicon(), media_type="image/svg+xml", headers={"Cache-Control": "max-age=86400"})
        if path == SIGN_IN:
            return HTMLResponse(sign_in_page(), headers={"Cache-Control": "no-store"})
        if not self._needs_key() or self._sessions.is_valid(_token(scope)):
            return None
        if scope["type"] == "websocket":
            return _close
        if path in PAGES:
            return RedirectResponse(f"{SIGN_IN}?next={quote(path, safe='')}", status_code=303)
        return JSONResponse(UNAUTHORIZED, status_code=401)


class LazyApp:
    """An application that is made when it is first called, and lives until the process ends.

    Args:
        load: makes it; runs in a thread, because it imports for a while and streams must not wait for that.
    """

    def __init__(self, load: Callable[[], ASGIApp]) -> None:
        self._load = load
        self._loading: asyncio.Task[ASGIApp] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, as soon as there is something to pass it to."""
        if self._loading is None:
            self._loading = asyncio.create_task(self._start())
        app = await asyncio.shield(self._loading)
        await app(scope, receive, send)

    async def _start(self) -> ASGIApp:
        app = await asyncio.to_thread(self._load)
        events: asyncio.Queue[Message] = asyncio.Queue()
        started = asyncio.Event()

        async def answered(message: Message) -> None:
            started.set()

        # Held by the loop's own task until the process ends: nothing of the pages outlives it.
        self._lifespan = asyncio.create_task(_live(app, events.get, answered))
        events.put_nowait({"type": "lifespan.startup"})
        await started.wait()
        return app


async def _live(app: ASGIApp, receive: Receive, send: Send) -> None:
    await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)


async def _close(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse a WebSocket before it opens."""
    await send({"type": "websocket.close", "code": 1008, "reason": "sign in first"})


def _token(scope: Scope) -> str:
    """The session's token from the request's cookies; empty where there is none."""
    header: bytes = next((value for name, value in scope["headers"] if name == b"cookie"), b"")
    try:
        cookies = SimpleCookie(header.decode("latin-1"))
    except CookieError:
        return ""
    return cookies[COOKIE].value if COOKIE in cookies else ""


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(HEADERS)
        await send(message)

    return send_with_headers
