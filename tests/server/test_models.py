"""GET /v1/models lists what is served, loaded or not."""

import pytest
from openai.types import Model

from server.routes import models
from tests.server.stand_ins import FakeClient, FakeState, connect, make_app, make_info

pytestmark = pytest.mark.anyio

GEOMETRY = {
    "max_model_len": 1000,
    "vocab_size": 100,
    "attention_type": "gqa",
    "num_q_heads": 9,
    "num_kv_heads": 3,
    "head_dim": 64,
    "num_layers": 30,
    "kv_bytes_per_token": 23_040,
}


def base(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "headcount"}


def make_state() -> FakeState:
    return FakeState(**{"org/demo": FakeClient(make_info()), "slow": FakeClient()})


async def test_all_models_are_listed_with_the_geometry_of_the_loaded_ones() -> None:
    async with connect(make_app(make_state(), models.router)) as client:
        response = await client.get("/v1/models")
    assert response.status_code == 200
    assert response.json() == {"object": "list", "data": [base("org/demo") | GEOMETRY, base("slow")]}
    for entry in response.json()["data"]:
        assert Model.model_validate(entry).owned_by == "headcount"


async def test_one_model_by_name_even_with_a_slash() -> None:
    async with connect(make_app(make_state(), models.router)) as client:
        loaded = await client.get("/v1/models/org/demo")
        escaped = await client.get("/v1/models/org%2Fdemo")
        loading = await client.get("/v1/models/slow")
    assert loaded.json() == escaped.json() == base("org/demo") | GEOMETRY
    assert loading.json() == base("slow")


@pytest.mark.parametrize("name", ["nope", "a%1Bb", "x" * 3000])
async def test_an_unknown_model_is_a_404_that_lists_the_served_ones(name: str) -> None:
    async with connect(make_app(make_state(), models.router)) as client:
        response = await client.get(f"/v1/models/{name}")
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["code"]) == (404, "not_found_error", "model_not_found")
    assert "'org/demo', 'slow'" in error["message"]
    assert len(error["message"]) < 400 and error["message"].isprintable()
