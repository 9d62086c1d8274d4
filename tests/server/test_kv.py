"""GET /v1/kv: every number comes from geometry, and agrees with the plan's arithmetic."""

from typing import Any

import pytest

from engine.client import EngineState
from engine.info import EngineStats
from kvcache.geometry import KVGeometry, LayerGeometry
from server.routes import kv
from tests.server.stand_ins import GQA, MQA, SMOLLM2, FakeClient, FakeState, connect, make_app, make_info

pytestmark = pytest.mark.anyio

BLOCK_BYTES = 16 * 23_040


async def report(**clients: FakeClient) -> list[dict[str, Any]]:
    async with connect(make_app(FakeState(**clients), kv.router)) as client:
        response = await client.get("/v1/kv")
    assert response.status_code == 200
    models: list[dict[str, Any]] = response.json()["models"]
    return models


async def test_a_loaded_model_shows_everything() -> None:
    client = FakeClient(info := make_info(SMOLLM2, num_blocks=130, max_model_len=1000))
    client.stats = EngineStats(num_used_blocks=3, num_cached_blocks=2, num_filled_slots=40)
    [model] = await report(tiny=client)
    assert (model["model"], model["state"], model["attention_type"]) == ("tiny", "ready", "gqa")
    assert model["geometry"] == {
        "num_layers": 30,
        "num_q_heads": 9,
        "num_kv_heads": 3,
        "head_dim": 64,
        "dtype": "bfloat16",
        "quantization": "none",
        "kv_cache_dtype": "bfloat16",
        "block_size": 16,
        "bytes_per_token": 23_040,
        "bytes_per_old_token": 23_040,
        "bytes_per_block": BLOCK_BYTES,
        "groups": [{"num_layers": 30, "sliding_window": None}],
        "layers": None,
    }
    assert model["blocks"] == {"total": 130, "free": 125, "used": 3, "cached": 2}
    assert model["bytes"] == {
        "total": 130 * BLOCK_BYTES,
        "used": 3 * BLOCK_BYTES,
        "filled": 40 * 23_040,
        "cached": 2 * BLOCK_BYTES,
        "wasted": 8 * 23_040,
    }
    assert model["capacity"] == {"tokens": 2080, "requests_of_max_model_len": 2}
    assert model["kernels"] == "cpu (generic)"
    assert model["attention_backend"] == "reference"
    assert model["attention_objections"] == {"flash": ["needs a CUDA device"]}
    assert model["startup_s"] == {"import": 1.5, "weights": 0.5}
    assert model["bytes"]["total"] == info.ledger.kv_cache_bytes


async def test_the_ledger_adds_up() -> None:
    [model] = await report(tiny=FakeClient(make_info()))
    ledger = model["ledger"]
    assert ledger["unaccounted_bytes"] == 40
    assert sum(number for name, number in ledger.items() if name != "total_bytes") == ledger["total_bytes"]


async def test_what_if_rows_show_the_same_memory_with_other_head_counts() -> None:
    [model] = await report(tiny=FakeClient(make_info(num_blocks=130)))
    rows = model["what_if"]
    assert [(row["num_kv_heads"], row["attention_type"], row["label"]) for row in rows] == [
        (9, "mha", "what-if"),
        (3, "gqa", "actual"),
        (1, "mqa", "what-if"),
    ]
    assert [row["bytes_per_token"] for row in rows] == [69_120, 23_040, 7_680]
    assert [row["ratio"] for row in rows] == [3.0, 1.0, pytest.approx(1 / 3)]
    assert [row["tokens"] for row in rows] == [43 * 16, 2080, 3 * 2080]
    actual = rows[1]
    assert {name: actual[name] for name in model["capacity"]} == model["capacity"]


async def test_what_if_rows_are_those_of_the_geometry() -> None:
    [model] = await report(tiny=FakeClient(make_info()))
    variants = SMOLLM2.what_if()
    assert [row["bytes_per_token"] for row in model["what_if"]] == [variant.bytes_per_token for variant in variants]


async def test_what_if_rows_show_the_same_memory_in_8_bits() -> None:
    [model] = await report(tiny=FakeClient(make_info(num_blocks=130)))
    rows = model["what_if_formats"]
    assert [(row["kv_cache_dtype"], row["label"], row["bytes_per_token"]) for row in rows] == [
        ("bfloat16", "actual", 23_040),
        ("fp8_e4m3", "what-if", 11_880),
        ("int8", "what-if", 11_880),
    ]
    assert [row["ratio"] for row in rows] == [1.0, 0.515625, 0.515625]
    assert [row["tokens"] for row in rows] == [130 * 16, 252 * 16, 252 * 16]
    assert {name: rows[0][name] for name in model["capacity"]} == model["capacity"]


async def test_a_cache_of_8_bits_says_so() -> None:
    [model] = await report(tiny=FakeClient(make_info(SMOLLM2.with_format(1, 2), kv_cache_dtype="int8")))
    assert model["geometry"]["dtype"] == "bfloat16"
    assert model["geometry"]["kv_cache_dtype"] == "int8"
    assert model["geometry"]["bytes_per_token"] == 11_880
    assert [(row["label"], row["bytes_per_token"]) for row in model["what_if_formats"]] == [
        ("what-if", 23_040),
        ("what-if", 11_880),
        ("actual", 11_880),
    ]
    assert [row["bytes_per_token"] for row in model["what_if"]] == [35_640, 11_880, 3_960]


async def test_layers_that_differ_are_given_one_by_one() -> None:
    geometry = KVGeometry(layers=(GQA, MQA), dtype_bytes=2, block_size=16)
    [model] = await report(tiny=FakeClient(make_info(geometry)))
    assert model["attention_type"] == "mixed"
    heads = [(layer["layer_idx"], layer["num_kv_heads"]) for layer in model["geometry"]["layers"]]
    assert heads == [(0, 3), (1, 1)]
    assert [row["label"] for row in model["what_if"]] == ["actual", "what-if", "what-if", "what-if"]
    assert model["what_if"][0]["attention_type"] == "mixed"


async def test_key_and_value_widths_that_differ_are_given_too() -> None:
    layer = LayerGeometry(num_q_heads=4, num_kv_heads=4, k_head_dim=48, v_head_dim=32)
    [model] = await report(tiny=FakeClient(make_info(KVGeometry((layer,), dtype_bytes=2, block_size=16))))
    assert model["geometry"]["layers"][0]["v_head_dim"] == 32


async def test_a_model_that_is_not_loaded_says_so() -> None:
    broken = FakeClient()
    broken.state, broken.failure = EngineState.STOPPED, "tensor x is missing"
    models = await report(slow=FakeClient(), broken=broken)
    assert models == [
        {"model": "slow", "state": "loading", "failure": None},
        {"model": "broken", "state": "stopped", "failure": "tensor x is missing"},
    ]


async def test_the_schema_documents_the_answer() -> None:
    schemas = make_app(FakeState(), kv.router).openapi()["components"]["schemas"]
    assert {"KVReport", "ModelKV", "Geometry", "Ledger", "WhatIf"} <= set(schemas)
    assert "unaccounted_bytes" in schemas["Ledger"]["properties"]
