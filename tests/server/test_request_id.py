"""Every request has a name, and the client hears it."""

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from server.request_id import MAX_REQUEST_ID_CHARS, RequestIdMiddleware
from tests.server.stand_ins import connect

pytestmark = pytest.mark.anyio


async def tell(request: Request) -> PlainTextResponse:
    return PlainTextResponse(request.state.request_id, headers={"X-Request-Id": "overwritten"})


async def ask(given: bytes | None) -> tuple[str, str]:
    """The id that the route saw, and the one in the response."""
    headers: Any = {} if given is None else {"X-Request-Id": given}
    async with connect(RequestIdMiddleware(Starlette(routes=[Route("/", tell)]))) as client:
        response = await client.get("/", headers=headers)
    assert len(response.headers.get_list("X-Request-Id")) == 1
    return response.text, response.headers["X-Request-Id"]


@pytest.mark.parametrize("given", [b"abc-123", b"a b", b"~" * MAX_REQUEST_ID_CHARS])
async def test_a_usable_id_is_kept(given: bytes) -> None:
    assert await ask(given) == (given.decode(), given.decode())


@pytest.mark.parametrize(
    "given", [None, b"", b"  ", b"x" * (MAX_REQUEST_ID_CHARS + 1), b"a\tb", b"a\x7f", "ä".encode()]
)
async def test_any_other_id_is_replaced(given: bytes | None) -> None:
    seen, sent = await ask(given)
    assert seen == sent
    assert len(seen) == 32 and int(seen, 16) >= 0


async def test_ids_are_unique() -> None:
    assert (await ask(None))[0] != (await ask(None))[0]


async def test_errors_have_one_too_and_lifespan_passes() -> None:
    app = RequestIdMiddleware(Starlette())
    async with connect(app) as client:
        assert "X-Request-Id" in (await client.get("/nothing")).headers
    scope: Any = {"type": "lifespan"}
    seen: list[Any] = []

    async def record(scope: Any, receive: Any, send: Any) -> None:
        seen.append(dict(scope))

    async def silent(*_: Any) -> Any:
        return None

    await RequestIdMiddleware(record)(scope, silent, silent)
    assert seen == [{"type": "lifespan"}]
