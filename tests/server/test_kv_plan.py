"""POST /v1/kv/plan: the plan's arithmetic for any geometry, within bounds."""

import time
from typing import Any

import pytest

from server.routes import kv_plan
from tests.server.stand_ins import SMOLLM2, FakeState, connect, make_app

pytestmark = pytest.mark.anyio

GIB = 1 << 30
DEMO = {"layers": [{"num_layers": 30, "num_q_heads": 9, "num_kv_heads": 3, "head_dim": 64}], "memory_bytes": GIB}


async def post(body: Any) -> tuple[int, Any]:
    async with connect(make_app(FakeState(), kv_plan.router)) as client:
        response = await client.post("/v1/kv/plan", json=body)
    return response.status_code, response.json()


async def test_it_says_what_geometry_says() -> None:
    status, plan = await post({**DEMO, "context": 512, "weights_bytes": GIB // 4, "workspace_bytes": GIB // 4})
    assert (status, plan["fits"], plan["kv_memory_bytes"]) == (200, True, GIB // 2)
    assert [(row["label"], row["num_kv_heads"], row["bytes_per_token"]) for row in plan["rows"]] == [
        ("what-if", 9, 69_120),
        ("actual", 3, 23_040),
        ("what-if", 1, 7_680),
    ]
    actual = plan["rows"][1]
    assert actual["num_blocks"] == SMOLLM2.num_blocks_in(GIB // 2)
    assert actual["num_requests"] == SMOLLM2.num_requests_in(GIB // 2, 512)
    assert actual["longest_context"] == SMOLLM2.longest_context_in(GIB // 2)
    assert actual["bytes_per_request"] == 512 * 23_040


async def test_windows_scales_and_devices_count() -> None:
    full = {"num_layers": 1, "num_q_heads": 8, "num_kv_heads": 2, "head_dim": 64}
    layers = [full, {**full, "sliding_window": 1024}]
    _, plan = await post({"layers": layers, "memory_bytes": GIB, "dtype": "int8", "tensor_parallel": 4})
    actual = next(row for row in plan["rows"] if row["label"] == "actual")
    assert actual["bytes_per_token"] == 2 * (2 * 64 + 2 * 2), "one copied head a device, and its two scales"
    assert actual["bytes_per_old_token"] == actual["bytes_per_token"] // 2


async def test_too_little_memory_for_a_request_is_an_answer() -> None:
    status, plan = await post({**DEMO, "memory_bytes": 1000})
    assert (status, plan["fits"], plan["rows"][1]["num_blocks"]) == (200, False, 0)


LAYER = DEMO["layers"][0]  # type: ignore[index]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"block_size": 0}, "block_size"),
        ({"block_size": 10**9}, "block_size"),
        ({"memory_bytes": -1}, "memory_bytes"),
        ({"memory_bytes": 10**30}, "memory_bytes"),
        ({"memory_bytes": 0}, "memory_bytes"),
        ({"weights_bytes": GIB}, "memory_bytes"),
        ({"context": 0}, "context"),
        ({"context": 10**12}, "context"),
        ({"context": "8192"}, "context"),
        ({"dtype": "int4"}, "dtype"),
        ({"tensor_parallel": 2}, "tensor_parallel"),
        ({"tensor_parallel": 0}, "tensor_parallel"),
        ({"layers": []}, "layers"),
        ({"layers": [LAYER] * 17}, "layers"),
        ({"layers": [{**LAYER, "num_layers": 200}] * 2}, "layers"),
        ({"layers": [{**LAYER, "num_layers": 10**9}]}, "layers[0].num_layers"),
        ({"layers": [LAYER, {**LAYER, "num_kv_heads": 2}]}, "layers[1].num_kv_heads"),
        ({"layers": [{**LAYER, "num_kv_heads": 0}]}, "layers[0].num_kv_heads"),
        ({"layers": [{**LAYER, "head_dim": 10**9}]}, "layers[0].head_dim"),
        ({"layers": [{**LAYER, "sliding_window": 0}]}, "layers[0].sliding_window"),
        ({"num_layers": 3}, "num_layers"),
    ],
)
async def test_what_makes_no_sense_is_refused_by_name(change: dict[str, Any], param: str) -> None:
    status, body = await post({**DEMO, **change})
    assert (status, body["error"]["type"], body["error"]["param"]) == (400, "invalid_request_error", param)


async def test_the_largest_body_is_answered_at_once() -> None:
    """16 kinds of window make as many groups of layers as there can be, and 240 heads have 20 divisors."""
    shape = {"num_q_heads": 240, "num_kv_heads": 8, "head_dim": 64}
    layers = [{**shape, "num_layers": 1, "sliding_window": 2**20}]
    layers += [{**shape, "num_layers": 17, "sliding_window": 1000 + place} for place in range(15)]
    start_s = time.process_time()
    status, plan = await post({"layers": layers, "memory_bytes": 1 << 50})
    assert (status, len(plan["rows"])) == (200, 20)
    assert time.process_time() - start_s < 2
