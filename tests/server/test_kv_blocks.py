"""GET /v1/kv/blocks: the map as the engine's tables say it, a part of it, and what is refused."""

import asyncio
from typing import Any

import pytest
from pydantic import SecretStr

from configs.http import HTTPSettings
from engine.client import EngineState
from kvcache.block_map import BlockSnapshot, HeldBlocks
from server.app import create_app
from server.routes import kv_blocks
from tests.server.stand_ins import SMOLLM2, FakeClient, FakeModel, FakeState, connect, make_app, make_info

pytestmark = pytest.mark.anyio


def client_with_blocks() -> FakeClient:
    """Ten blocks: 7 is shared by a and b, 2 and 3 are a's, 5 is b's, 8 and 9 are cached, the rest is free."""
    client = FakeClient(make_info(num_blocks=10))
    holdings = [HeldBlocks("a", [[7, 2, 3]], 37), HeldBlocks("b", [[7, 5]], 17)]
    client.snapshot = BlockSnapshot(num_blocks=10, block_size=16, holdings=holdings, cached_block_ids=[9, 8])
    return client


async def test_owners_are_for_admins_where_there_are_any() -> None:
    state = FakeState(tiny=client_with_blocks())
    state.http = HTTPSettings(admin_key=SecretStr("boss"))
    async with connect(make_app(state, kv_blocks.router)) as client:
        for key, owners, request_ids in ((None, [], []), ("boss", [0, 0, 1, 0, 1], ["a", "b"])):
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            answer = (await client.get("/v1/kv/blocks", headers=headers)).json()
            assert (answer["owners"], answer["request_ids"]) == (owners, request_ids)
            assert (answer["states"], sum(answer["ref_counts"])) == ("ffoofofscc", 5)


async def get(query: str = "", **clients: FakeClient) -> Any:
    async with connect(make_app(FakeState(**clients), kv_blocks.router)) as client:
        return await client.get(f"/v1/kv/blocks{query}")


async def test_the_whole_map() -> None:
    response = await get(tiny=client_with_blocks())
    assert response.status_code == 200
    assert response.json() == {
        "model": "tiny",
        "num_blocks": 10,
        "block_size": 16,
        "bytes_per_block": SMOLLM2.bytes_per_block,
        "offset": 0,
        "states": "ffoofofscc",
        "filled_slots": [0, 0, 16, 5, 0, 1, 0, 16, 16, 16],
        "ref_counts": [0, 0, 1, 1, 0, 1, 0, 2, 0, 0],
        "owners": [0, 0, 1, 0, 1],
        "request_ids": ["a", "b"],
    }


@pytest.mark.parametrize(
    ("query", "states", "owners"),
    [
        ("?offset=3&limit=3", "ofo", [0, 1]),
        ("?offset=7", "scc", [0, 1]),
        ("?limit=3", "ffo", [0]),
        ("?offset=9&limit=100000000", "c", []),
        ("?model=tiny&limit=1", "f", []),
    ],
)
async def test_a_part(query: str, states: str, owners: list[int]) -> None:
    part = (await get(query, tiny=client_with_blocks())).json()
    assert (part["states"], part["owners"]) == (states, owners)
    assert len(part["filled_slots"]) == len(part["ref_counts"]) == len(states)
    assert sum(part["ref_counts"]) == len(owners)


async def test_several_models_are_told_apart() -> None:
    other = FakeClient(make_info(num_blocks=2))
    other.snapshot = BlockSnapshot(num_blocks=2, block_size=16, holdings=[], cached_block_ids=[])
    clients = {"tiny": client_with_blocks(), "other": other}
    assert (await get("?model=other", **clients)).json()["states"] == "ff"
    response = await get(**clients)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, "model", "missing_field")
    assert "other, tiny" in error["message"]


@pytest.mark.parametrize(
    ("query", "status", "param", "code"),
    [
        ("?model=nobody", 404, "model", "model_not_found"),
        ("?offset=10", 400, "offset", "invalid_value"),
        ("?offset=-1", 400, "offset", "invalid_value"),
        ("?offset=x", 400, "offset", "invalid_type"),
        ("?offset=" + "9" * 5000, 400, "offset", "invalid_value"),
        ("?offset=" + "9" * 4000, 400, "offset", "invalid_value"),
        ("?limit=0", 400, "limit", "invalid_value"),
        ("?limit=1.5", 400, "limit", "invalid_type"),
        ("?size=3", 400, "size", "unknown_field"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_what_cannot_be_is_refused_by_name(query: str, status: int, param: str, code: str) -> None:
    response = await get(query, tiny=client_with_blocks())
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (status, param, code)
    assert len(error["message"]) < 400


async def test_an_engine_that_does_not_answer_is_unavailable() -> None:
    silent = FakeClient(make_info())
    loading = FakeClient()
    for client in (silent, loading):
        response = await get(tiny=client)
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "engine_unavailable"
        assert int(response.headers["Retry-After"]) > 0
    assert loading.state is EngineState.LOADING


async def test_other_requests_go_on_while_a_large_map_is_made() -> None:
    client = FakeClient(make_info(num_blocks=100_000))
    holdings = [HeldBlocks(f"r{i}", [list(range(500 * i, 500 * i + 500))], 8000) for i in range(200)]
    client.snapshot = BlockSnapshot(num_blocks=100_000, block_size=16, holdings=holdings, cached_block_ids=[])
    app = make_app(FakeState(tiny=client), kv_blocks.router)
    num_turns = 0
    async with connect(app) as http:
        task = asyncio.create_task(http.get("/v1/kv/blocks"))
        while not task.done():
            num_turns += 1
            await asyncio.sleep(0)
    answer = task.result().json()
    assert answer["states"] == "o" * 100_000
    assert answer["owners"] == [i // 500 for i in range(100_000)]
    assert num_turns > 20, "the event loop turned meanwhile"


async def test_the_map_is_described() -> None:
    served: Any = {"tiny": FakeModel("tiny", client_with_blocks())}
    schema = create_app(FakeState().http, served).openapi()
    operation = schema["paths"]["/v1/kv/blocks"]["get"]
    assert {parameter["name"] for parameter in operation["parameters"]} == {"model", "offset", "limit"}
    content = operation["responses"]["200"]["content"]
    assert content == {"application/json": {"schema": {"$ref": "#/components/schemas/BlockMapOut"}}}
    described = schema["components"]["schemas"]["BlockMapOut"]["properties"]
    assert set(described) == set((await get(tiny=client_with_blocks())).json())
    assert "shared by several" in described["states"]["description"]
