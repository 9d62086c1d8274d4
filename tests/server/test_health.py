"""What a probe is told about engines, loading and draining."""

from typing import Any

import pytest

from engine.client import EngineState
from server.routes import health
from tests.server.stand_ins import FakeClient, FakeState, connect, make_app, make_info

pytestmark = pytest.mark.anyio


async def get(state: FakeState, path: str) -> Any:
    async with connect(make_app(state, health.router)) as client:
        return await client.get(path)


def ready() -> FakeClient:
    return FakeClient(make_info())


async def test_while_every_engine_answers_all_is_well() -> None:
    state = FakeState(a=ready(), b=ready())
    response = await get(state, "/health")
    assert response.status_code == 200
    assert response.json()["status"] == "ok"
    assert response.json()["engines"][0] == {"model": "a", "state": "ready", "num_restarts": 0}
    assert (await get(state, "/ready")).json() == {"status": "ready"}


@pytest.mark.parametrize("path", ["/health", "/ready"])
@pytest.mark.parametrize(
    ("engine_state", "failure", "words"),
    [
        (EngineState.LOADING, None, "model 'b': the engine is loading"),
        (EngineState.RESTARTING, None, "model 'b': the engine is restarting"),
        (EngineState.STOPPED, "no such tensor", "model 'b': it cannot be loaded: no such tensor"),
    ],
)
async def test_an_engine_that_does_not_answer_is_named(
    path: str, engine_state: EngineState, failure: str | None, words: str
) -> None:
    client = FakeClient()
    client.state, client.failure = engine_state, failure
    response = await get(FakeState(a=ready(), b=client), path)
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["code"]) == (503, "server_error", "engine_unavailable")
    assert error["message"] == words
    assert int(response.headers["Retry-After"]) > 0


async def test_every_silent_engine_is_named() -> None:
    message = (await get(FakeState(a=FakeClient(), b=FakeClient()), "/health")).json()["error"]["message"]
    assert "'a'" in message and "'b'" in message


async def test_a_draining_server_is_healthy_but_not_ready() -> None:
    state = FakeState(a=ready())
    state.is_draining = True
    assert (await get(state, "/health")).status_code == 200
    response = await get(state, "/ready")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "draining")


async def test_version() -> None:
    version = (await get(FakeState(), "/version")).json()["version"]
    assert version[0].isdigit()


async def test_metrics_are_the_text_page() -> None:
    response = await get(FakeState(a=ready()), "/metrics")
    assert response.status_code == 200
    assert response.headers.get_list("Content-Type")[0].startswith("text/plain; version=")
    assert len(response.headers.get_list("Content-Type")) == 1
    assert 'headcount_engine_up{model_name="a"} 1.0' in response.text
