"""Receipts, salts and the block map of a really started server."""

import json
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import API_KEY
from tests.e2e.server_process import ServerProcess, events

pytestmark = [pytest.mark.e2e, pytest.mark.demo]

AUTHORIZED = {"Authorization": f"Bearer {API_KEY}"}
PROMPT = "The quick brown fox jumps over the lazy dog. " * 8


def usage(server: ServerProcess, **fields: Any) -> dict[str, Any]:
    [model] = server.get("/v1/models", headers=AUTHORIZED).json()["data"]
    body = {"model": model["id"], "prompt": PROMPT, "max_tokens": 4, "temperature": 0, **fields}
    response = server.post("/v1/completions", body, headers=AUTHORIZED)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()["usage"]
    return found


def counters(server: ServerProcess) -> dict[str, float]:
    metrics = server.get("/metrics").text
    return {line.split("{")[0]: float(line.rpartition(" ")[2]) for line in metrics.splitlines() if "{" in line}


def test_salts_part_clients_and_requests_with_one_salt_share(keyed_server: ServerProcess) -> None:
    before = counters(keyed_server)
    num_tokens = usage(keyed_server)["prompt_tokens"]
    most = (num_tokens - 1) // 16 * 16
    found = [
        usage(keyed_server, cache_salt=salt)["prompt_tokens_details"]["cached_tokens"]
        for salt in (None, "a", "a", "b", "b", None)
    ]
    assert found == [most, 0, most, 0, most, most]
    after = counters(keyed_server)
    prompts, cached = "headcount_prompt_tokens_total", "headcount_cached_prompt_tokens_total"
    assert after[prompts] - before.get(prompts, 0) == 7 * num_tokens
    assert after[cached] - before.get(cached, 0) == 4 * most
    assert after["headcount_prefix_cache_hit_ratio"] == pytest.approx(after[cached] / after[prompts])


def test_a_refused_salt_leaves_nothing(keyed_server: ServerProcess) -> None:
    [model] = keyed_server.get("/v1/models", headers=AUTHORIZED).json()["data"]
    body = {"model": model["id"], "prompt": PROMPT, "cache_salt": "x" * 100_000}
    response = keyed_server.post("/v1/completions", body, headers=AUTHORIZED)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "cache_salt")
    blocks = keyed_server.get("/v1/kv/blocks", headers=AUTHORIZED).json()
    assert set(blocks["states"]) <= {"f", "c"}
    assert blocks["request_ids"] == []
    for path in ("/v1/kv/blocks", "/v1/requests/cmpl-1"):
        assert keyed_server.get(path).status_code == 401, path


def test_a_second_turn_finds_all_but_the_last_partial_block(demo_server: ServerProcess) -> None:
    messages = [{"role": "user", "content": "Name three rivers of Europe and say a sentence about each."}]
    body = {"model": "demo", "temperature": 0, "max_tokens": 48, "cache_salt": "a conversation", "kv_receipt": True}
    num_known = 0
    for question in ("Which of them is the longest?", "And the shortest?", ""):
        answer = demo_server.post("/v1/chat/completions", {**body, "messages": messages}).json()
        told = answer["usage"]
        assert told["prompt_tokens_details"]["cached_tokens"] == num_known
        assert told["kv_receipt"]["cached_tokens"] == num_known
        # The KV of the last token was never computed.
        num_computed = told["prompt_tokens"] + told["completion_tokens"] - 1
        assert told["kv_receipt"]["blocks"] == -(-num_computed // 16)
        assert told["kv_receipt"]["wasted_slots"] == -num_computed % 16
        assert told["kv_receipt"]["bytes"] == told["kv_receipt"]["blocks"] * 16 * 23_040
        assert told["kv_receipt"]["mha_bytes"] == 3 * told["kv_receipt"]["bytes"]
        num_known = num_computed // 16 * 16
        messages += [answer["choices"][0]["message"], {"role": "user", "content": question}]


def test_a_running_request_can_be_watched(demo_server: ServerProcess) -> None:
    body = {"model": "demo", "prompt": PROMPT, "max_tokens": 4000, "ignore_eos": True, "stream": True, "n": 2}
    with httpx.stream("POST", f"{demo_server.url}/v1/completions", json=body, timeout=60) as response:
        lines = response.iter_lines()
        name = json.loads(next(lines).removeprefix("data: "))["id"]
        demo_server.wait_until(lambda entry: entry["blocks"]["used"] > 0)
        watched = demo_server.get(f"/v1/requests/{name}").json()
        blocks = demo_server.get("/v1/kv/blocks").json()
        assert [one["request_id"] for one in watched["requests"]] == [f"{name}-0", f"{name}-1"]
        assert all(one["status"] == "running" for one in watched["requests"])
        assert blocks["request_ids"] == [f"{name}-0", f"{name}-1"]
        assert sum(blocks["ref_counts"]) == len(blocks["owners"])
        held = watched["requests"][0]["kv_receipt"]["blocks"]
        assert blocks["owners"].count(0) >= held
    demo_server.wait_idle(timeout_s=3)
    assert demo_server.get(f"/v1/requests/{name}").status_code == 404


def test_a_stream_tells_the_receipt_in_its_last_chunk(demo_server: ServerProcess) -> None:
    options = {"include_usage": True}
    body = {"model": "demo", "prompt": "Hello", "max_tokens": 3, "kv_receipt": True, "stream_options": options}
    *_, last = events(demo_server.stream("/v1/completions", body))
    assert last["usage"]["kv_receipt"]["blocks"] == 1
