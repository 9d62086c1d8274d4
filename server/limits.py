"""How much a client may send: a body over the limit is refused before anything reads it as a whole."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import body_too_large, error_response


class BodyLimitMiddleware:
    """Answers 413 to a body of more than `max_body_bytes`, by its Content-Length or while it comes in.

    The body is collected here and handed on afterwards, so that the refusal never meets a response that has begun.

    Args:
        app: what is protected.
        max_body_bytes: the largest body that passes.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 413."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_over = _content_length(scope) > self._max_body_bytes
        messages = None if is_over else await self._read(receive)
        if messages is None:
            await error_response(body_too_large(self._max_body_bytes))(scope, receive, send)
        else:
            await self._app(scope, _replay(messages, receive), send)

    async def _read(self, receive: Receive) -> list[Message] | None:
        """All messages of the body, or of what came of it before the client left; None where it is too large."""
        messages: list[Message] = []
        num_bytes = 0
        while True:
            message = await receive()
            messages.append(message)
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_body_bytes:
                return None
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
