"""The end of a server: no new generation, while what runs may finish."""

from starlette.types import ASGIApp, Receive, Scope, Send

from engine.errors import EngineUnavailableError
from server.errors import error_of, error_response
from server.served_model import ServerState


class DrainMiddleware:
    """Counts open POST requests, and refuses new ones (503, code draining) once the server is draining.

    Args:
        app: the next application.
        state: says whether the server is draining; keeps the count.
    """

    def __init__(self, app: ASGIApp, state: ServerState) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        if self._state.is_draining:
            error = EngineUnavailableError("the server is shutting down", retry_after_s=5.0, code="draining")
            await error_response(error_of(error))(scope, receive, send)
            return
        self._state.num_open_requests += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._state.num_open_requests -= 1
