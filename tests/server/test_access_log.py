"""One line for every request, with nothing of what was asked."""

import logging
from pathlib import Path
from typing import Any

import pytest

from server.access_log import AccessLogMiddleware
from tests.server.fake_engine import FakeServer
from tests.server.stand_ins import connect
from tests.server.test_streaming import CHAT, Connection, until_open

pytestmark = pytest.mark.anyio


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.INFO, "headcount.access")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "headcount.access"]


async def test_a_line_says_what_how_it_ended_how_long_and_whose(tmp_path: Path, lines: Any) -> None:
    async with connect(FakeServer(tmp_path).app) as client:
        body = {"model": "tiny", "prompt": "a secret"}
        response = await client.post("/v1/completions?key=s3cret", json=body, headers={"X-Request-Id": "mine 1"})
    assert response.status_code == 200
    [line] = lines()
    first, _, rest = line.partition(" 200 ")
    assert first == "POST /v1/completions"
    duration_ms, unit, *request_id = rest.split(" ")
    assert (float(duration_ms) > 0, unit, request_id) == (True, "ms", ["mine", "1"])


async def test_refusals_have_one_too(tmp_path: Path, lines: Any) -> None:
    async with connect(FakeServer(tmp_path, api_key="k").app) as client:
        await client.get("/v1/models")
        await client.get("/nothing%0aforged%1b[2J", headers={"Authorization": "Bearer k"})
    assert lines()[0].startswith("GET /v1/models 401 ")
    assert lines()[1].startswith(r"GET /nothing\nforged\x1b[2J 404 ")


async def test_probes_do_not_fill_the_log(tmp_path: Path, lines: Any, caplog: pytest.LogCaptureFixture) -> None:
    server = FakeServer(tmp_path)
    async with connect(server.app) as client:
        for path in ("/health", "/ready", "/metrics"):
            assert (await client.get(path)).status_code == 200
        assert lines() == []
        server.state.is_draining = True
        await client.get("/ready")
        assert lines() == []
        caplog.set_level(logging.DEBUG, "headcount.access")
        await client.get("/ready")
    assert [line.split(" ")[:3] for line in lines()] == [["GET", "/ready", "503"]]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_left_is_told_as_such(tmp_path: Path, lines: Any, stream: bool) -> None:
    server = FakeServer(tmp_path, is_manual=True)
    connection = Connection(server, CHAT, stream=stream)
    await until_open(server, 1)
    connection.leave()
    await connection.task
    assert lines()[0].startswith("POST /v1/chat/completions 499 ")


async def test_a_bug_is_a_500(lines: Any) -> None:
    async def fail(*_: Any) -> None:
        raise RuntimeError

    scope: Any = {"type": "http", "method": "GET", "path": "/x", "state": {"request_id": "i"}}
    with pytest.raises(RuntimeError):
        await AccessLogMiddleware(fail)(scope, fail, fail)
    assert lines()[0].startswith("GET /x 500 ")


async def test_other_scopes_pass(lines: Any) -> None:
    seen: list[str] = []

    async def record(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    scope: Any = {"type": "lifespan"}
    await AccessLogMiddleware(record)(scope, record, record)
    assert (seen, lines()) == (["lifespan"], [])
