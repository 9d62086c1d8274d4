"""/v1/compare through HTTP; what compares is the test's own."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from configs.engine import EngineSettings
from server.compare import runs
from server.compare.plan import Job
from server.compare.report import Comparison, Progress
from server.compare.run import Event
from server.protocol.compare import MAX_JOB_TOKENS
from tests.server.compare.small_jobs import make_comparison, write_model
from tests.server.fake_engine import FakeServer, events
from tests.server.stand_ins import connect

pytestmark = pytest.mark.anyio

BODY = {"model": "tiny", "num_kv_heads": [9, 3, 1], "num_requests": 4, "concurrency": 2}
STEP = Progress("load", 9, 1, 4)


class CompareServer(FakeServer):
    """A server whose comparisons end when `gate` is set."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **http: Any) -> None:
        monkeypatch.setenv("HEADCOUNT_CACHE_DIR", str(folder / "cache"))
        super().__init__(folder, **http)
        self.gate = asyncio.Event()
        self.job: Job | None = None
        self.engine.folder = write_model(folder / "model")  # type: ignore[attr-defined]
        self.engine.settings = EngineSettings()  # type: ignore[attr-defined]
        monkeypatch.setattr(runs, "run_comparison", self._compare)

    async def _compare(self, job: Job, on_event: Callable[[Event], None], count: Callable[[], int]) -> Comparison:
        self.job, before = job, count()
        on_event(STEP)
        await self.gate.wait()
        comparison = make_comparison(job, num_other_requests=count() - before)
        for variant in comparison.variants:
            on_event(variant)
        return comparison


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CompareServer:
    return CompareServer(tmp_path, monkeypatch)


async def test_a_comparison_is_started_watched_and_kept(server: CompareServer) -> None:
    async with connect(server.app) as client:
        started = await client.post("/v1/compare", json=BODY)
        assert started.status_code == 202
        record = started.json()
        assert (record["state"], record["model"], record["num_kv_heads"]) == ("running", "tiny", [9, 3, 1])
        path = f"/v1/compare/{record['id']}"
        await asyncio.sleep(0)
        assert (await client.get(path)).json()["progress"]["phase"] == "load"
        server.engine.num_requests += 3
        server.gate.set()
        seen = events((await client.get(f"{path}/events")).text)
        assert [event["type"] for event in seen] == ["progress", "variant", "variant", "variant", "end"]
        assert seen[0] == {"type": "progress", "phase": "load", "num_kv_heads": 9, "num_done": 1, "num_total": 4}
        assert seen[-1] == {"type": "end", "state": "done", "error": None}
        done = (await client.get(path)).json()
        assert done["state"] == "done"
        assert done["result"]["num_other_requests"] == 3
        assert done["result"]["variants"] == seen[1:4]
        listed = (await client.get("/v1/compare")).json()
        assert [(one["id"], one["state"], one["result"]) for one in listed["data"]] == [(record["id"], "done", None)]
        assert (await client.delete(path)).json()["state"] == "done"
        assert (await client.get(path)).status_code == 404


async def test_what_is_asked_for_is_what_is_measured(server: CompareServer) -> None:
    body = {
        **BODY,
        "method": "first",
        "kv_cache_memory_bytes": 10**8,
        "prompt_tokens": 100,
        "max_tokens": 20,
        "seed": 7,
    }
    async with connect(server.app) as client:
        assert (await client.post("/v1/compare", json=body)).status_code == 202
        await asyncio.sleep(0)
    assert server.job is not None
    assert server.job.settings.method == "first"
    assert server.job.engine.cache.kv_cache_memory_bytes == 10**8
    assert server.job.settings.workload.model_dump() == {
        "prompt_tokens": 100,
        "max_tokens": 20,
        "num_requests": 4,
        "concurrency": 2,
        "seed": 7,
    }


async def test_only_one_runs_at_a_time_and_it_can_be_stopped(server: CompareServer) -> None:
    async with connect(server.app) as client:
        first = (await client.post("/v1/compare", json=BODY)).json()["id"]
        second = await client.post("/v1/compare", json=BODY)
        error = second.json()["error"]
        assert (second.status_code, error["code"]) == (409, "comparison_running")
        assert first in error["message"]
        await asyncio.sleep(0)
        assert (await client.delete(f"/v1/compare/{first}")).json()["state"] == "stopped"
        assert (await client.post("/v1/compare", json=BODY)).status_code == 202


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"num_kv_heads": [2]}, "num_kv_heads"),
        ({"num_kv_heads": [0]}, "num_kv_heads[0]"),
        ({"num_kv_heads": "9,3"}, "num_kv_heads"),
        ({"num_kv_heads": [1] * 9}, "num_kv_heads"),
        ({"kv_cache_memory_bytes": 1000}, "kv_cache_memory_bytes"),
        ({"kv_cache_memory_bytes": 10**12}, "kv_cache_memory_bytes"),
        ({"prompt_tokens": 8190}, "prompt_tokens"),
        ({"prompt_tokens": 10**9}, "prompt_tokens"),
        ({"max_tokens": 1}, "max_tokens"),
        ({"num_requests": 10**6}, "num_requests"),
        ({"num_requests": 512, "prompt_tokens": 300}, "num_requests"),
        ({"concurrency": 0}, "concurrency"),
        ({"method": "best"}, "method"),
        ({"path": "/etc"}, "path"),
    ],
)
async def test_bad_input_is_refused_by_name(server: CompareServer, change: dict[str, Any], param: str) -> None:
    async with connect(server.app) as client:
        response = await client.post("/v1/compare", json={**BODY, **change})
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)


async def test_hours_of_work_are_refused_with_the_numbers(server: CompareServer) -> None:
    async with connect(server.app) as client:
        response = await client.post("/v1/compare", json={**BODY, "num_requests": 512, "prompt_tokens": 300})
    message = response.json()["error"]["message"]
    assert f"at most {MAX_JOB_TOKENS} are allowed" in message


async def test_a_pool_larger_than_the_memory_is_refused(server: CompareServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=64 * 2**20))
    async with connect(server.app) as client:
        response = await client.post("/v1/compare", json=BODY)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, "kv_cache_memory_bytes")
    assert "take 67109864 bytes" in error["message"]
    assert "67108864 are available" in error["message"]


async def test_names_that_are_unknown_are_404(server: CompareServer) -> None:
    async with connect(server.app) as client:
        unknown = await client.post("/v1/compare", json={**BODY, "model": "other"})
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
        for method, path in (("GET", ""), ("GET", "/events"), ("DELETE", "")):
            response = await client.request(method, f"/v1/compare/cmp-{'0' * 16}{path}")
            assert (response.status_code, response.json()["error"]["code"]) == (404, "comparison_not_found")


async def test_a_model_that_loads_cannot_be_compared_yet(server: CompareServer) -> None:
    server.engine.info = None
    async with connect(server.app) as client:
        response = await client.post("/v1/compare", json=BODY)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_unavailable")


async def test_where_an_admin_key_is_set_comparisons_need_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = CompareServer(tmp_path, monkeypatch, api_key=SecretStr("user"), admin_key=SecretStr("admin"))
    paths = [("POST", ""), ("GET", ""), ("GET", "/cmp-0"), ("GET", "/cmp-0/events"), ("DELETE", "/cmp-0")]
    async with connect(server.app) as client:
        for method, path in paths:
            for key, expected in (("user", 403), ("wrong", 401)):
                headers = {"Authorization": f"Bearer {key}"}
                response = await client.request(method, f"/v1/compare{path}", json=BODY, headers=headers)
                assert response.status_code == expected, (method, path, key)
        headers = {"Authorization": "Bearer admin"}
        assert (await client.post("/v1/compare", json=BODY, headers=headers)).status_code == 202


async def test_the_shapes_are_described(server: CompareServer) -> None:
    schema = server.app.openapi()
    assert {"ComparisonRecord", "Comparison", "VariantReport", "CompareBody"} <= set(schema["components"]["schemas"])
    assert "202" in schema["paths"]["/v1/compare"]["post"]["responses"]
    assert json.dumps(schema).count("ComparisonRecord") > 3
