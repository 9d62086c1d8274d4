"""Variants of a model compared over HTTP."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.own_cache import own_cache
from tests.e2e.server_process import ServerProcess, events

pytestmark = [pytest.mark.e2e, pytest.mark.demo]

TIMEOUT_S = 600
"""A comparison starts an engine a variant, and a process for each variant that is made."""
BODY = {
    "model": "tiny",
    "num_kv_heads": [6, 2, 1],
    "kv_cache_memory_bytes": 1_000_000,
    "prompt_tokens": 40,
    "max_tokens": 24,
    "num_requests": 12,
    "concurrency": 6,
}


def watch(server: ServerProcess, name: str) -> list[dict[str, Any]]:
    """All events of a comparison, to its end."""
    with httpx.stream("GET", f"{server.url}/v1/compare/{name}/events", timeout=TIMEOUT_S) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        payloads = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]
    return events(payloads)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for these tests alone, but for the compiled kernels."""
    return own_cache(tmp_path_factory.mktemp("cache"), "kernels")


@pytest.fixture(scope="module")
def server(tiny_folder: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of the tiny model, which keeps what it makes in `cache`."""
    args = ("--model", f"tiny={tiny_folder}", "--kv-cache-memory-bytes", "4000000", "--max-num-batched-tokens", "256")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADCOUNT_CACHE_DIR", str(cache))
        server = ServerProcess(*args, log=tmp_path_factory.mktemp("served") / "log")
    with server:
        yield server.wait_ready()


def comparison_ids(server: ServerProcess) -> list[str]:
    return [one["id"] for one in server.get("/v1/compare").json()["data"]]


@pytest.mark.timeout(900)
def test_a_comparison_over_http_from_start_to_result(server: ServerProcess, cache: Path) -> None:
    before = comparison_ids(server)
    started = server.post("/v1/compare", BODY)
    assert started.status_code == 202, started.text
    name = started.json()["id"]
    refused = server.post("/v1/compare", BODY)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "comparison_running")
    other = server.post("/v1/completions", {"model": "tiny", "prompt": "hello", "max_tokens": 4})
    assert other.status_code == 200, "the served model stays up meanwhile"
    seen = watch(server, name)
    assert seen[-1] == {"type": "end", "state": "done", "error": None}, server.log
    phases = [(event["num_kv_heads"], event["phase"]) for event in seen if event["type"] == "progress"]
    assert [phase for phase in dict.fromkeys(phases) if phase[1] == "load"] == [(2, "load"), (6, "load"), (1, "load")]
    record = server.get(f"/v1/compare/{name}").json()
    check(record["result"])
    assert record["result"]["num_other_requests"] == 1
    assert len(list((cache / "variants").glob("*-kv*"))) == 2
    assert len(server.engine_pids()) == 1, "the engines of the variants are gone"
    assert comparison_ids(server) == [name, *before]


def check(result: dict[str, Any]) -> None:
    """What must hold of every comparison of a model whose KV heads are 6, 2 and 1."""
    load = result["settings"]["workload"]
    mha, gqa, mqa = result["variants"]
    assert [one["planned"]["attention_type"] for one in (mha, gqa, mqa)] == ["mha", "gqa", "mqa"]
    assert mha["planned"]["kv_bytes_per_token"] == 3 * gqa["planned"]["kv_bytes_per_token"]
    for one in (mha, gqa, mqa):
        planned = one["planned"]
        with_a_block_more = planned["num_blocks"] // (planned["blocks_per_request"] + 1)
        with_a_block_less = planned["num_blocks"] // (planned["blocks_per_request"] - 1)
        assert with_a_block_more <= one["num_requests_reached"] <= with_a_block_less
        assert 0 <= planned["blocks_per_request"] - one["num_peak_blocks"] <= 1
        assert one["load"]["num_errors"] == 0
        assert one["load"]["output_tokens"] == load["num_requests"] * load["max_tokens"]
        assert set(one["load"]["ttft_s"]) == set(one["load"]["itl_s"]) == {"p50", "p90", "p95", "p99"}
    reads = [one["kv_read_bytes_per_token"] for one in (mha, gqa, mqa)]
    per_token = [one["planned"]["kv_bytes_per_token"] for one in (mha, gqa, mqa)]
    contexts = [read / size for read, size in zip(reads, per_token, strict=True)]
    assert contexts == pytest.approx([contexts[1]] * 3, rel=0.02), "the same tokens, each as large as its heads make it"
    for one, is_exact in ((mha, True), (gqa, True), (mqa, False)):
        tokens = one["tokens"]
        assert tokens["is_expected"] is is_exact
        assert tokens["num_equal_requests"] == tokens["num_requests"] or not is_exact


@pytest.mark.timeout(900)
def test_a_comparison_that_is_stopped_leaves_no_engine(server: ServerProcess) -> None:
    name = server.post("/v1/compare", {**BODY, "num_requests": 500, "max_tokens": 100}).json()["id"]
    seen: list[dict[str, Any]] = []
    watcher = threading.Thread(target=lambda: seen.extend(watch(server, name)))
    watcher.start()
    deadline_s = time.monotonic() + TIMEOUT_S
    while len(server.engine_pids()) < 2:
        assert time.monotonic() < deadline_s, server.log
        time.sleep(0.05)
    stopped = httpx.delete(f"{server.url}/v1/compare/{name}", timeout=60).json()
    assert stopped["state"] == "stopped"
    watcher.join(30)
    assert seen[-1]["state"] == "stopped"
    assert len(server.engine_pids()) == 1
    assert server.post("/v1/completions", {"model": "tiny", "prompt": "hi", "max_tokens": 2}).status_code == 200


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_the_demo_model_as_mha_gqa_and_mqa(tmp_path: Path) -> None:
    from headcount import main

    file = tmp_path / "compare.json"
    load = ["--prompt-tokens", "112", "--max-tokens", "16", "--num-requests", "16", "--concurrency", "16"]
    assert (
        main(["compare", "demo", "--kv-heads", "9,3,1", "--kv-cache-memory-bytes", "32MiB", *load, "--json", str(file)])
        == 0
    )
    result = json.loads(file.read_text())
    check(result)
    assert [one["planned"]["kv_bytes_per_token"] for one in result["variants"]] == [69_120, 23_040, 7_680]
    assert [one["num_requests_reached"] for one in result["variants"]] == [3, 11, 34]
    assert result["variants"][-1]["tokens"]["num_equal_requests"] < 16, "the mean of heads is another model"
