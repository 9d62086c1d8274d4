"""Once the server drains, nothing new begins, and what runs may finish."""

import asyncio
from pathlib import Path

import pytest

from tests.server.fake_engine import OUTPUT, FakeServer, events
from tests.server.stand_ins import connect
from tests.server.test_streaming import CHAT, Connection, joined, until_open

pytestmark = pytest.mark.anyio


async def test_new_requests_are_refused_and_running_ones_finish(tmp_path: Path) -> None:
    server = FakeServer(tmp_path, is_manual=True)
    running = Connection(server, CHAT, stream=True)
    await until_open(server, 1)
    assert server.state.num_open_requests == 1
    server.state.is_draining = True
    async with connect(server.app) as client:
        for path in ("/v1/completions", "/v1/chat/completions", "/tokenize"):
            response = await client.post(path, json={"model": "tiny"})
            assert response.status_code == 503
            assert response.headers["retry-after"] == "5"
            error = response.json()["error"]
            assert (error["type"], error["code"]) == ("server_error", "draining")
        assert (await client.get("/v1/models")).status_code == 200
        assert (await client.get("/ready")).status_code == 503
        assert (await client.get("/health")).status_code == 200
    assert server.state.num_open_requests == 1
    while server.engine.num_open:
        server.engine.step()
    await running.task
    assert joined(events(running.text))[0]["text"] == OUTPUT
    assert server.state.num_open_requests == 0


@pytest.mark.parametrize("stream", [True, False])
async def test_requests_that_fail_or_leave_are_no_longer_open(tmp_path: Path, stream: bool) -> None:
    server = FakeServer(tmp_path, is_manual=True)
    async with connect(server.app) as client:
        assert (await client.post("/v1/completions", json={})).status_code == 400
    assert server.state.num_open_requests == 0
    leaving = Connection(server, CHAT, stream=stream)
    await until_open(server, 1)
    leaving.leave()
    await asyncio.wait_for(leaving.task, 1)
    assert server.state.num_open_requests == 0
