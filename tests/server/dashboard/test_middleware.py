"""The way to the dashboard: what is its, who may come in, and that nothing else changes."""

import sys
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import SecretStr

from configs.http import HTTPSettings
from server.app import create_app
from server.dashboard.middleware import HEADERS
from server.dashboard.paths import PAGES, SIGN_IN, is_dashboard
from server.dashboard.sessions import COOKIE
from server.routes import dashboard
from tests.server.stand_ins import connect

pytestmark = pytest.mark.anyio

KEY = "s3cret"


@pytest.fixture(autouse=True)
def pages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that reach the pages, which say "page"; NiceGUI is one for a whole process, so it is left out here."""
    reached: list[str] = []

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            return
        reached.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"page"})

    monkeypatch.setattr(dashboard, "_load_pages", lambda: answer)
    return reached


def app(**http: Any) -> Any:
    return create_app(HTTPSettings(**http), {})


@pytest.mark.parametrize("path", [*PAGES, "/_nicegui/3.0/static/x.js", "/_nicegui_ws/socket.io/"])
async def test_without_a_key_everybody_comes_in(path: str, pages: list[str]) -> None:
    async with connect(app()) as client:
        answer = await client.get(path)
    assert (answer.text, pages) == ("page", [path])
    assert all(answer.headers[name] == value for name, value in HEADERS.items())
    assert "X-Request-Id" in answer.headers


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_leads_to_the_sign_in_page(path: str, pages: list[str]) -> None:
    async with connect(app(api_key=SecretStr(KEY))) as client:
        answer = await client.get(path)
        place = urlsplit(answer.headers["Location"])
        assert (answer.status_code, place.path, parse_qs(place.query)["next"]) == (303, SIGN_IN, [path])
        shown = await client.get(answer.headers["Location"])
    assert (shown.status_code, pages) == (200, [])
    assert "API key" in shown.text
    assert "--accent" in shown.text


async def test_what_belongs_to_pages_is_refused_without_a_session(pages: list[str]) -> None:
    async with connect(app(api_key=SecretStr(KEY))) as client:
        for headers in ({}, {"Cookie": f"{COOKIE}=1.2"}, {"Cookie": f"{COOKIE}=99999999999.x"}, {"Cookie": b"\x80=;;"}):
            answer = await client.get("/_nicegui/3.0/static/x.js", headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert pages == []


async def test_a_key_opens_the_pages_and_the_session_opens_nothing_else(pages: list[str]) -> None:
    async with connect(app(api_key=SecretStr(KEY))) as client:
        assert (await client.post("/dashboard/session")).status_code == 401
        answer = await client.post("/dashboard/session", headers={"Authorization": f"Bearer {KEY}"})
        assert answer.status_code == 204
        assert {"HttpOnly", "SameSite=strict"} <= set(answer.headers["Set-Cookie"].split("; "))
        assert (await client.get("/")).text == "page"
        assert (await client.get("/v1/models")).status_code == 401


async def test_a_web_socket_is_closed_before_it_opens(pages: list[str]) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/_nicegui_ws/socket.io/", "headers": [], "state": {}}
    await app(api_key=SecretStr(KEY))(scope, None, send)
    assert [message["type"] for message in sent] == ["websocket.close"]
    assert pages == []


@pytest.mark.parametrize("path", ["/nothing", "//", "/heads-cost/", "/_nicegui", "/sign-in/x", "/v1/_nicegui/"])
async def test_all_other_paths_are_the_apis(path: str, pages: list[str]) -> None:
    assert not is_dashboard(path)
    async with connect(app()) as client:
        answer = await client.get(f"http://test{path}")
    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "not_found_error")
    assert pages == []


async def test_it_can_be_switched_off(pages: list[str]) -> None:
    async with connect(app(dashboard=False)) as client:
        assert (await client.get("/")).status_code == 404
        assert (await client.post("/dashboard/session")).status_code == 404
    assert pages == []


def test_nothing_is_imported_before_a_page_is_opened() -> None:
    app()
    assert "nicegui" not in sys.modules
