"""Receipts: in usage where they are asked for, streamed and not; priced by geometry."""

from pathlib import Path
from typing import Any

import pytest

from engine.request import KVReceipt, Request, TokenDelta
from kvcache.geometry import KVGeometry, LayerGeometry
from server.receipts import add_receipts, price_receipt
from tests.server.fake_engine import FakeServer, deltas_of, encode, events
from tests.server.stand_ins import GQA, MQA, SMOLLM2, connect

pytestmark = pytest.mark.anyio

BLOCK_BYTES = 16 * 23_040
BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"model": "tiny", "prompt": "hi", "max_tokens": 5},
    "/v1/chat/completions": {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5},
}


def with_receipts(request: Request) -> list[TokenDelta]:
    """Five tokens; the request holds a block more with each of them, and gives one back at last."""
    deltas = deltas_of(request, [i for letter in "hello" for i in encode(letter)], cached=16)
    if request.enable_kv_receipt:
        for i, delta in enumerate(deltas, 1):
            delta.kv_receipt = KVReceipt(num_blocks=i, num_peak_blocks=i, num_tokens=16 * i - 3, num_wasted_slots=3)
        deltas[-1].kv_receipt = KVReceipt(num_blocks=4, num_peak_blocks=5, num_tokens=61, num_wasted_slots=3)
    return deltas


@pytest.fixture
def server(tmp_path: Path) -> FakeServer:
    return FakeServer(tmp_path, with_receipts)


def receipt(number: int = 1) -> dict[str, int]:
    return {
        "blocks": number * 4,
        "bytes": number * 4 * BLOCK_BYTES,
        "peak_bytes": number * 5 * BLOCK_BYTES,
        "cached_tokens": number * 16,
        "wasted_slots": number * 3,
        "mha_bytes": number * 12 * BLOCK_BYTES,
        "mqa_bytes": number * 4 * BLOCK_BYTES // 3,
    }


@pytest.mark.parametrize("path", BODIES)
async def test_usage_has_the_receipt_only_where_it_is_asked_for(server: FakeServer, path: str) -> None:
    async with connect(server.app) as client:
        asked = (await client.post(path, json={**BODIES[path], "kv_receipt": True})).json()["usage"]
        plain = (await client.post(path, json={**BODIES[path], "kv_receipt": False})).json()["usage"]
    assert asked.pop("kv_receipt") == receipt()
    assert plain == asked
    assert asked["prompt_tokens_details"] == {"cached_tokens": 16}


@pytest.mark.parametrize("path", BODIES)
async def test_a_stream_tells_it_with_the_usage(server: FakeServer, path: str) -> None:
    async with connect(server.app) as client:
        options = {"include_usage": True, "continuous_usage_stats": True}
        body = {**BODIES[path], "kv_receipt": True, "stream": True, "stream_options": options}
        chunks = events((await client.post(path, json=body)).text)
    assert chunks[-1]["usage"]["kv_receipt"] == receipt()
    assert chunks[-1]["usage"]["prompt_tokens_details"] == {"cached_tokens": 16}
    blocks = [chunk["usage"]["kv_receipt"]["blocks"] for chunk in chunks]
    assert blocks[:-3] == sorted(blocks[:-3]), "it grows with the request"


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}])
async def test_a_stream_without_usage_has_no_place_for_it(server: FakeServer, path: str, options: Any) -> None:
    async with connect(server.app) as client:
        body = {**BODIES[path], "kv_receipt": True, "stream": True, "stream_options": options}
        response = await client.post(path, json=body)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, "kv_receipt", "invalid_value")
    assert "include_usage" in error["message"]
    assert server.engine.requests == []


async def test_several_choices_have_one_receipt_and_count_their_prompt_once(server: FakeServer) -> None:
    body = {**BODIES["/v1/completions"], "prompt": ["hi", "ho"], "n": 3, "kv_receipt": True}
    async with connect(server.app) as client:
        usage = (await client.post("/v1/completions", json=body)).json()["usage"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 2 * 16}
    assert usage["kv_receipt"] == receipt(6)


async def test_a_stop_string_ends_the_request_with_the_receipt_so_far(server: FakeServer) -> None:
    body = {**BODIES["/v1/completions"], "stop": "ll", "kv_receipt": True}
    async with connect(server.app) as client:
        answer = (await client.post("/v1/completions", json=body)).json()
    num_tokens = answer["usage"]["completion_tokens"]
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["kv_receipt"]["blocks"] == num_tokens < 5


async def test_the_receipt_is_described(server: FakeServer) -> None:
    schema = server.app.openapi()["components"]["schemas"]
    assert set(schema["KVReceiptOut"]["properties"]) == set(receipt())
    assert "KVReceiptOut" in str(schema["Usage"]["properties"]["kv_receipt"])


def test_layers_that_differ_are_priced_one_by_one() -> None:
    geometry = KVGeometry((GQA, MQA), dtype_bytes=2, block_size=16)
    priced = price_receipt(KVReceipt(num_blocks=2, num_peak_blocks=2, num_tokens=20, num_wasted_slots=12), 0, geometry)
    assert priced.bytes == 2 * 16 * (3 + 1) * 256
    assert priced.mha_bytes == 2 * 16 * (9 + 9) * 256
    assert priced.mqa_bytes == 2 * 16 * (1 + 1) * 256


def test_heads_that_change_the_groups_are_priced_by_their_tokens() -> None:
    window = LayerGeometry(8, 2, 64, 64, sliding_window=16)
    full = LayerGeometry(8, 4, 64, 64)
    geometry = KVGeometry((full, window), dtype_bytes=2, block_size=16)
    assert len(geometry.groups) == 1, "different heads share a table, and the window gives nothing back"
    priced = price_receipt(KVReceipt(num_blocks=10, num_peak_blocks=10, num_tokens=160), 0, geometry)
    mha = geometry.as_mha()
    assert len(mha.groups) == 2
    assert priced.mha_bytes == mha.bytes_per_request(160) < 10 * 16 * (8 + 8) * 256


def test_receipts_add_up() -> None:
    one = price_receipt(KVReceipt(num_blocks=4, num_peak_blocks=5, num_tokens=61, num_wasted_slots=3), 16, SMOLLM2)
    assert add_receipts([one, one]).bytes == 2 * one.bytes
    assert add_receipts([one]) == one
