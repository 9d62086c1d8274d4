"""How long the server's event loop keeps anything waiting while 64 streams run."""

import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import uvicorn

from configs.cache import CacheSettings
from configs.engine import EngineSettings
from configs.http import HTTPSettings
from configs.scheduler import SchedulerSettings
from server.app import create_app
from server.served_model import load_served_model

pytestmark = [pytest.mark.e2e, pytest.mark.demo, pytest.mark.soak]

NUM_STREAMS = 64
MAX_LAG_S = 0.02
PAUSE_S = 0.005
CLIENTS = f"""
import asyncio, json, sys, httpx
async def main():
    async with httpx.AsyncClient(base_url=sys.argv[1], timeout=300, limits=httpx.Limits(max_connections=None)) as client:
        async def one(i):
            body = {{"model": "tiny", "prompt": [i + 5] * 20, "max_tokens": 400, "ignore_eos": True, "stream": True}}
            async with client.stream("POST", "/v1/completions", json=body) as response:
                return sum([line.startswith("data: ") async for line in response.aiter_lines()])
        print(json.dumps(sum(await asyncio.gather(*(one(i) for i in range({NUM_STREAMS}))))))
asyncio.run(main())
"""


@pytest.mark.timeout(600)
def test_the_event_loop_keeps_nobody_waiting(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    idle, busy, num_chunks = asyncio.run(measure(tiny_folder))
    assert num_chunks >= NUM_STREAMS * 400
    with capsys.disabled():
        print(f"\nevent-loop lag at {NUM_STREAMS} streams: {describe(busy)}; without any: {describe(idle)}")
    assert percentile(busy) < MAX_LAG_S


async def measure(folder: Path) -> tuple[list[float], list[float], int]:
    """Lags in seconds, idle and under load, and how many chunks the clients got."""
    settings = EngineSettings(
        cache=CacheSettings(kv_cache_memory_bytes=100_000_000), scheduler=SchedulerSettings(max_num_seqs=NUM_STREAMS)
    )
    model = load_served_model("tiny", folder, settings)
    app = create_app(HTTPSettings(), {"tiny": model})
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False))
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign]
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.05)
    await model.client.wait_ready()
    idle = await sample_lags(asyncio.create_task(asyncio.sleep(2)))
    port = server.servers[0].sockets[0].getsockname()[1]
    clients = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CLIENTS, f"http://127.0.0.1:{port}"), stdout=subprocess.PIPE
    )
    busy = await sample_lags(load := asyncio.create_task(clients.communicate()))
    server.should_exit = True
    await running
    return idle, busy, json.loads(load.result()[0])


async def sample_lags(load: "asyncio.Task[object]") -> list[float]:
    """How much later than asked for a pause ends, over and over until `load` is done."""
    clock, lags = asyncio.get_running_loop().time, []
    while not load.done():
        start_s = clock()
        await asyncio.sleep(PAUSE_S)
        lags.append(clock() - start_s - PAUSE_S)
    return lags


def percentile(lags: list[float]) -> float:
    """The 99th."""
    return statistics.quantiles(lags, n=100)[-1]


def describe(lags: list[float]) -> str:
    return f"p50 {1e3 * statistics.median(lags):.1f} ms, p99 {1e3 * percentile(lags):.1f} ms ({len(lags)} samples)"
