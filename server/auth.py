"""Who may come in: with an API key set, every path needs it except the few that are named open."""

import hmac

from starlette.types import ASGIApp, Receive, Scope, Send

from configs.http import HTTPSettings, is_loopback
from server.errors import error_response, invalid_api_key
from server.salts import key_identity

ALWAYS_OPEN = frozenset({"/health", "/ready", "/version", "/openapi.json", "/docs"})


def open_paths(http: HTTPSettings) -> frozenset[str]:
    """The paths that need no key: those that say nothing about a request, and /metrics where only this machine asks."""
    return ALWAYS_OPEN | {"/metrics"} if is_loopback(http.host) else ALWAYS_OPEN


class APIKeyMiddleware:
    """Lets a request pass that has the key or asks for an open path; with no key set, every request.

    It decides on `scope["path"]`, which is what the router decides on, so that no spelling of a path passes one and
    reaches the other. Behind it, `scope["state"]["key_identity"]` tells requests with different keys apart.

    Args:
        app: what is protected.
        api_key: None or empty for none.
        open_paths: exact paths that need no key.
    """

    def __init__(self, app: ASGIApp, api_key: str | None, open_paths: frozenset[str]) -> None:
        self._app = app
        self._api_key = api_key.encode() if api_key else None
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401 (a WebSocket is closed before it opens)."""
        if scope["type"] == "lifespan" or self._api_key is None or scope["path"] in self._open_paths:
            await self._app(scope, receive, send)
            return
        given = _bearer_key(scope)
        if given is not None and hmac.compare_digest(given, self._api_key):
            scope.setdefault("state", {})["key_identity"] = key_identity(given)
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "invalid API key"})
        else:
            problem = "there is no API key in the request" if given is None else "the API key is wrong"
            error = invalid_api_key(f"{problem}; send it in the header Authorization: Bearer KEY")
            await error_response(error)(scope, receive, send)


def _bearer_key(scope: Scope) -> bytes | None:
    """What follows `Bearer` in the first Authorization header."""
    header: bytes = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    scheme, _, key = header.partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else None
