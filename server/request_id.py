"""Names of requests.

An HTTP request has the client's own name where it sends a usable one, so that both sides' logs can be joined. What it
starts is named after its response's id: `chatcmpl-<hex>`, whose choices are the engine's requests `chatcmpl-<hex>-0`, …
"""

import uuid

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "X-Request-Id"
MAX_REQUEST_ID_CHARS = 128


class RequestIdMiddleware:
    """Puts the request's id in `scope["state"]["request_id"]` and in the response's headers.

    Args:
        app: what comes next; the id should be known to everything, so this is the outermost middleware.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Name the request and pass it on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        request_id = _given_id(scope) or uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)


def new_response_id(prefix: str) -> str:
    """An id that nobody can guess."""
    return f"{prefix}-{uuid.uuid4().hex}"


def engine_request_id(response_id: str, index: int) -> str:
    """The engine's name of a choice."""
    return f"{response_id}-{index}"


def response_id(engine_request_id: str) -> str:
    """The response that a request of the engine is a choice of."""
    return engine_request_id.rpartition("-")[0]


def _given_id(scope: Scope) -> str | None:
    """The client's id, where it is short and printable ASCII: it goes to headers and logs."""
    value: bytes = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"").strip()
    is_usable = 0 < len(value) <= MAX_REQUEST_ID_CHARS and all(0x20 <= byte <= 0x7E for byte in value)
    return value.decode("ascii") if is_usable else None
