"""With a key set, everything needs it but what is named open."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from pydantic import SecretStr

from configs.http import HTTPSettings
from server.app import create_app
from server.auth import ALWAYS_OPEN, APIKeyMiddleware, open_paths, requires_admin
from server.dashboard.paths import PAGES
from server.errors import install_error_handlers
from server.keys import Keys
from tests.server.stand_ins import FakeClient, FakeModel, connect, make_info

pytestmark = pytest.mark.anyio

KEY = "s3cret-ключ"


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """An application that lets everybody in."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"in"})


def protect(api_key: str | None, host: str = "127.0.0.1", admin_key: str | None = None) -> APIKeyMiddleware:
    http = HTTPSettings(host=host, insecure=True, api_key=api_key, admin_key=admin_key)
    return APIKeyMiddleware(answer, Keys(http), open_paths(http))


async def status_of(app: Any, path: str, authorization: str | None = None) -> int:
    headers = {} if authorization is None else {"Authorization": authorization.encode()}
    async with connect(app) as client:
        return (await client.get(path, headers=headers)).status_code


@pytest.mark.parametrize("path", ["/v1/models", "/", "/nothing", "/v1/kv", "/redoc"])
async def test_the_key_opens_what_is_closed(path: str) -> None:
    assert await status_of(protect(KEY), path) == 401
    assert await status_of(protect(KEY), path, f"Bearer {KEY}") == 200
    assert await status_of(protect(KEY), path, f"bearer  {KEY} ") == 200


@pytest.mark.parametrize("given", ["", "Bearer", "Bearer ", "Bearer wrong", f"Basic {KEY}", KEY, f"Bearer {KEY}x"])
async def test_any_other_header_is_refused(given: str) -> None:
    assert await status_of(protect(KEY), "/v1/models", given) == 401


@pytest.mark.parametrize("path", ["/health", "/ready", "/version", "/openapi.json", "/docs", "/metrics"])
async def test_open_paths_need_no_key(path: str) -> None:
    assert await status_of(protect(KEY), path) == 200


async def test_metrics_are_closed_where_others_can_reach_them() -> None:
    assert await status_of(protect(KEY, host="0.0.0.0"), "/metrics") == 401
    assert await status_of(protect(KEY, host="0.0.0.0"), "/health") == 200


@pytest.mark.parametrize(
    "path", ["//health", "/health/", "/health/..%2fv1/models", "/HEALTH", "/health;x", "/v1/health"]
)
async def test_no_spelling_of_an_open_path_opens_another(path: str) -> None:
    assert await status_of(protect(KEY), path) == 401


async def test_without_a_key_everything_is_open() -> None:
    assert await status_of(protect(None), "/v1/models") == 200
    assert await status_of(protect(None), "/v1/models", "Bearer whatever") == 200


async def test_the_refusal_is_an_envelope_that_says_what_to_send() -> None:
    async with connect(protect(KEY)) as client:
        missing = await client.get("/v1/models")
        wrong = await client.get("/v1/models", headers={"Authorization": "Bearer no"})
    assert missing.headers["WWW-Authenticate"] == "Bearer"
    error = missing.json()["error"]
    assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
    assert "Authorization: Bearer" in error["message"]
    assert "wrong" in wrong.json()["error"]["message"]
    assert "no" not in wrong.json()["error"]["message"].split()


async def test_the_key_that_opened_leaves_its_identity_and_not_itself() -> None:
    seen: list[Any] = []

    async def record(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["state"])
        await answer(scope, receive, send)

    for api_key in (KEY, KEY, "another"):
        middleware = APIKeyMiddleware(record, Keys(HTTPSettings(api_key=SecretStr(api_key))), frozenset())
        assert await status_of(middleware, "/v1/models", f"Bearer {api_key}") == 200
    first, second, other = (state["key_identity"] for state in seen)
    assert first == second != other
    assert KEY.encode() not in first


async def test_a_websocket_without_the_key_is_closed_and_lifespan_passes() -> None:
    sent: list[Any] = []
    seen: list[str] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {}

    async def record(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    app = APIKeyMiddleware(record, Keys(HTTPSettings(api_key=SecretStr(KEY))), frozenset())
    await app({"type": "websocket", "path": "/ws", "headers": []}, receive, send)
    await app({"type": "lifespan"}, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]
    assert seen == ["lifespan"]


def every_route(routes: Any) -> Iterator[tuple[str, str]]:
    """Path and method of every route, those that the documentation leaves out and those of routers included."""
    for route in routes:
        nested = getattr(route, "routes", None) or getattr(getattr(route, "original_router", None), "routes", None)
        if nested:
            yield from every_route(nested)
        else:
            yield from (
                (route.path.replace(":path}", "}"), method) for method in getattr(route, "methods", None) or ["GET"]
            )


async def test_every_route_of_the_server_is_closed_but_the_open_ones() -> None:
    served: Any = {"tiny": FakeModel("tiny", FakeClient(make_info()))}
    app = create_app(HTTPSettings(host="0.0.0.0", api_key=SecretStr(KEY)), served)
    documented = {(path, method.upper()) for path, methods in app.openapi()["paths"].items() for method in methods}
    found = set(every_route(app.routes))
    assert len(documented) > 8
    assert documented <= found
    assert {("/docs", "GET"), ("/openapi.json", "GET"), ("/docs/oauth2-redirect", "GET")} <= found
    async with connect(app) as client:
        for path, method in sorted({*found, ("/", "GET"), ("/nothing", "DELETE")}):
            response = await client.request(method, path)
            closed = 303 if path in PAGES else 401  # a page leads to the sign-in page
            assert (response.status_code == closed) is (path not in ALWAYS_OPEN), path
            assert "X-Request-Id" in response.headers


ADMIN = "adm1n"


def admin_app(**keys: str) -> FastAPI:
    """One route for admins, one for everybody who may come in."""
    app = FastAPI()
    install_error_handlers(app)

    @app.get("/others", dependencies=[Depends(requires_admin)])
    async def others() -> str:
        return "what others do"

    @app.get("/own")
    async def own() -> str:
        return "mine"

    app.add_middleware(APIKeyMiddleware, keys=Keys(HTTPSettings(**keys)), open_paths=frozenset())  # type: ignore[arg-type]
    return app


@pytest.mark.parametrize(
    ("keys", "given", "own", "others"),
    [
        ({}, None, 200, 200),
        ({"api_key": KEY}, None, 401, 401),
        ({"api_key": KEY}, KEY, 200, 200),
        ({"admin_key": ADMIN}, None, 200, 401),
        ({"admin_key": ADMIN}, "wrong", 200, 401),
        ({"admin_key": ADMIN}, ADMIN, 200, 200),
        ({"api_key": KEY, "admin_key": ADMIN}, None, 401, 401),
        ({"api_key": KEY, "admin_key": ADMIN}, "wrong", 401, 401),
        ({"api_key": KEY, "admin_key": ADMIN}, KEY, 200, 403),
        ({"api_key": KEY, "admin_key": ADMIN}, ADMIN, 200, 200),
    ],
)
async def test_what_shows_others_requests_needs_the_admin_key(
    keys: dict[str, str], given: str | None, own: int, others: int
) -> None:
    app, authorization = admin_app(**keys), None if given is None else f"Bearer {given}"
    assert await status_of(app, "/own", authorization) == own
    assert await status_of(app, "/others", authorization) == others


async def test_the_wrong_kind_of_key_is_an_envelope() -> None:
    async with connect(admin_app(api_key=KEY, admin_key=ADMIN)) as client:
        response = await client.get("/others", headers={"Authorization": f"Bearer {KEY}".encode()})
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("permission_error", "admin_key_required")
    assert "Authorization: Bearer" in error["message"]


async def test_a_route_for_admins_without_the_middleware_is_closed() -> None:
    app = admin_app()
    app.user_middleware.clear()
    assert await status_of(app, "/others") == 401
