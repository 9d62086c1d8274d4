"""Who may come in: with an API key set, every path needs it except the few that are named open."""

from typing import Any

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from configs.http import HTTPSettings, is_loopback
from server import request_id
from server.errors import admin_key_required, error_response, invalid_api_key
from server.keys import Keys

ALWAYS_OPEN = frozenset({"/health", "/ready", "/version", "/openapi.json", "/docs"})

WHERE = "send it in the header Authorization: Bearer KEY"


def open_paths(http: HTTPSettings) -> frozenset[str]:
    """The paths that need no key: those that say nothing about a request, and /metrics where only this machine asks."""
    return ALWAYS_OPEN | {"/metrics"} if is_loopback(http.host) else ALWAYS_OPEN


def cors_options(http: HTTPSettings) -> dict[str, Any]:
    """What browsers are told about scripts of other pages: keys go in a header, never in a cookie."""
    return {
        "allow_origins": http.cors_origins,
        "allow_methods": ["GET", "POST"],
        "allow_headers": ["*"],
        "expose_headers": [request_id.HEADER, "Retry-After"],
    }


class APIKeyMiddleware:
    """Lets a request pass that has a key or asks for an open path; with no key set, every request.

    It decides on `scope["path"]`, which is what the router decides on, so that no spelling of a path passes one and
    reaches the other. Behind it, `scope["state"]` has `key_identity`, which tells requests with different keys apart,
    and `is_admin`.

    Args:
        app: what is protected.
        keys: those that open it.
        open_paths: exact paths that need no key.
    """

    def __init__(self, app: ASGIApp, keys: Keys, open_paths: frozenset[str]) -> None:
        self._app = app
        self._keys = keys
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401 (a WebSocket is closed before it opens)."""
        if scope["type"] == "lifespan" or scope["path"] in self._open_paths:
            await self._app(scope, receive, send)
            return
        given = _bearer_key(scope)
        access = self._keys.admit(given)
        if access is not None:
            scope.setdefault("state", {}).update(key_identity=access.identity, is_admin=access.is_admin)
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "invalid API key"})
        else:
            problem = "there is no API key in the request" if given is None else "the API key is wrong"
            await error_response(invalid_api_key(f"{problem}; {WHERE}"))(scope, receive, send)


def is_admin(connection: HTTPConnection) -> bool:
    """Whether a request may see what others' requests do: it has an admin key, or there is none."""
    return bool(getattr(connection.state, "is_admin", False))


async def requires_admin(connection: HTTPConnection) -> None:
    """The dependency of a route that shows what others' requests do. Async, so that no thread is asked.

    Raises:
        APIError: an admin key is set, and the request has none (401), or another key (403).
    """
    if is_admin(connection):
        return
    if getattr(connection.state, "key_identity", b""):
        raise admin_key_required(f"the API key is not the admin key, which this route needs; {WHERE}")
    raise invalid_api_key(f"this route needs the admin key; {WHERE}")


def _bearer_key(scope: Scope) -> bytes | None:
    """What follows `Bearer` in the first Authorization header."""
    header: bytes = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    scheme, _, key = header.partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else None
