"""GET /v1/requests/{id}: a response's choices while they run."""

from typing import Any

import pytest
from pydantic import SecretStr

from configs.http import HTTPSettings
from engine.info import RequestState
from engine.request import KVReceipt, RequestStatus
from server.routes import requests
from tests.server.stand_ins import FakeClient, FakeState, connect, make_app, make_info

pytestmark = pytest.mark.anyio

BLOCK_BYTES = 16 * 23_040


def client_with_requests() -> FakeClient:
    client = FakeClient(make_info())
    for name, status, num_blocks in (
        ("cmpl-1-0", RequestStatus.RUNNING, 2),
        ("cmpl-1-1", RequestStatus.WAITING, 0),
        ("cmpl-11-0", RequestStatus.RUNNING, 1),
    ):
        receipt = KVReceipt(num_blocks, 3, 16 * num_blocks, 0)
        client.states[name] = RequestState(name, status, 20, 5, 16, 1, receipt)
    return client


async def get(name: str, **clients: FakeClient) -> Any:
    async with connect(make_app(FakeState(**clients), requests.router)) as client:
        return await client.get(f"/v1/requests/{name}")


async def test_the_choices_of_a_response() -> None:
    response = await get("cmpl-1", other=FakeClient(make_info()), tiny=client_with_requests())
    assert response.status_code == 200
    answer = response.json()
    assert answer["id"] == "cmpl-1"
    assert [(one["request_id"], one["status"]) for one in answer["requests"]] == [
        ("cmpl-1-0", "running"),
        ("cmpl-1-1", "waiting"),
    ]
    assert answer["requests"][0] == {
        "request_id": "cmpl-1-0",
        "model": "tiny",
        "status": "running",
        "prompt_tokens": 20,
        "completion_tokens": 5,
        "preemptions": 1,
        "kv_receipt": {
            "blocks": 2,
            "bytes": 2 * BLOCK_BYTES,
            "peak_bytes": 3 * BLOCK_BYTES,
            "cached_tokens": 16,
            "wasted_slots": 0,
            "mha_bytes": 6 * BLOCK_BYTES,
            "mqa_bytes": 2 * BLOCK_BYTES // 3,
        },
    }


async def test_one_choice() -> None:
    answer = (await get("cmpl-1-1", tiny=client_with_requests())).json()
    assert [one["request_id"] for one in answer["requests"]] == ["cmpl-1-1"]


@pytest.mark.parametrize("name", ["cmpl", "cmpl-2", "cmpl-1-2", "x" * 3000, "%1b%5b2J", "-"])
async def test_what_does_not_run_is_not_found(name: str) -> None:
    response = await get(name, tiny=client_with_requests(), loading=FakeClient())
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["code"]) == (404, "not_found_error", "request_not_found")
    assert len(error["message"]) < 400
    assert "\x1b" not in error["message"]


async def test_it_is_for_admins_where_there_are_any() -> None:
    state = FakeState(tiny=client_with_requests())
    state.http = HTTPSettings(api_key=SecretStr("user"), admin_key=SecretStr("boss"))
    async with connect(make_app(state, requests.router)) as client:
        statuses = [
            (await client.get("/v1/requests/cmpl-1", headers={"Authorization": f"Bearer {key}"})).status_code
            for key in ("user", "boss")
        ]
    assert statuses == [403, 200]
