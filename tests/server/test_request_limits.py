"""What a generation request may ask for, and for how long: limits that hold over the whole application."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from engine.errors import QueueFullError
from tests.server.fake_engine import FakeServer, deltas_of, encode, events
from tests.server.stand_ins import connect

pytestmark = pytest.mark.anyio

BODY = {"model": "tiny", "prompt": "hi", "max_tokens": 50}


async def post(server: FakeServer, **fields: Any) -> Any:
    async with connect(server.app) as client:
        return await client.post("/v1/completions", json={**BODY, **fields})


@pytest.mark.parametrize(("timeout", "expected"), [(None, 100.0), (7.5, 7.5), (500, 100.0)])
async def test_a_request_gets_the_time_it_asks_for_up_to_the_servers(
    tmp_path: Path, timeout: float | None, expected: float
) -> None:
    server = FakeServer(tmp_path, request_timeout_s=100.0)
    assert (await post(server, timeout=timeout)).status_code == 200
    assert [request.timeout_s for request in server.engine.requests] == [expected]


@pytest.mark.parametrize("timeout", [0, -1, "5", True, []])
async def test_a_time_that_is_none_is_refused(tmp_path: Path, timeout: Any) -> None:
    response = await post(FakeServer(tmp_path), timeout=timeout)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "timeout")


@pytest.mark.parametrize("code", ["deadline_exceeded", "slow_reader"])
@pytest.mark.parametrize("n", [1, 2])
async def test_a_request_that_is_cut_off_says_so(tmp_path: Path, code: str, n: int) -> None:
    server = FakeServer(tmp_path, is_manual=True)

    async def cut() -> None:
        while server.engine.num_open < n:
            await asyncio.sleep(0.001)
        server.engine.step()
        for _, (stream, _) in list(server.engine._open.items()):
            stream.cut("its time was up", code=code)

    whole, _ = await asyncio.gather(post(server, n=n), cut())
    error = whole.json()["error"]
    assert (whole.status_code, error["type"], error["code"]) == (408, "timeout_error", code)
    assert whole.headers["x-should-retry"] == "false"
    streamed, _ = await asyncio.gather(post(server, n=n, stream=True), cut())
    assert events(streamed.text)[-1]["error"]["code"] == code
    assert server.engine.num_open == 0
    assert server.metric('headcount_requests_total{finish_reason="abort",model_name="tiny"}') == 2 * n


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"logprobs": 20}, None),
        ({"logprobs": 20, "n": 10}, "logprobs"),
        ({"prompt_logprobs": 20, "prompt": [encode("hello hello")] * 40}, "prompt_logprobs"),
        ({"logprobs": 5, "echo": True, "prompt": [encode("hello")] * 40}, "prompt_logprobs"),
        ({"n": 100}, None),
    ],
)
async def test_log_probabilities_have_a_budget(tmp_path: Path, fields: dict[str, Any], param: str | None) -> None:
    server = FakeServer(tmp_path, max_logprobs_bytes=120_000)
    server.engine.max_num_requests = 1000
    response = await post(server, **fields)
    if param is None:
        assert response.status_code == 200
        assert len(response.content) < 120_000 or "logprobs" not in fields
    else:
        error = response.json()["error"]
        assert (response.status_code, error["param"], error["code"]) == (400, param, "invalid_value")
        assert "120000" in error["message"]
        assert server.engine.requests == []


async def test_the_estimate_is_what_they_really_take(tmp_path: Path) -> None:
    response = await post(FakeServer(tmp_path, lambda request: deltas_of(request, encode("hello ") * 25)), logprobs=20)
    num_entries = 50 * 21
    assert len(response.content) < 100 * num_entries


async def test_a_queue_without_room_for_all_choices_takes_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeServer(tmp_path)
    asked: list[Any] = []

    def check_room(prompts: list[list[int]], num_choices: int) -> None:
        asked.append((len(prompts), num_choices))
        raise QueueFullError("too many wait", retry_after_s=6.2)

    monkeypatch.setattr(server.engine, "check_room", check_room)
    response = await post(server, prompt=["a", "b"], n=3)
    assert (response.status_code, response.headers["retry-after"]) == (429, "7")
    assert asked == [(2, 3)]
    assert server.engine.requests == []
