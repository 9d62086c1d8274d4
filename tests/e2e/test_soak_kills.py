"""The engine killed under load, again and again: every stream ends as it must, and the server is the same afterwards."""

import asyncio
import os
import signal
import time
from pathlib import Path

import httpx
import pytest

from tests.e2e.process_state import ProcessState, state_of
from tests.e2e.server_process import ServerProcess, events

pytestmark = [pytest.mark.e2e, pytest.mark.demo, pytest.mark.soak, pytest.mark.timeout(1800)]

NUM_STREAMS = 32
NUM_KILLS = 5
READY_WITHIN_S = 10.0


def test_an_engine_killed_under_32_streams_five_times(
    demo_folder: Path, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    limit_s = READY_WITHIN_S * pytestconfig.getoption("--patience")
    with ServerProcess("--max-num-seqs", str(NUM_STREAMS), log=tmp_path / "log") as server:
        server.wait_ready()
        states, times_s = [], []
        for number in range(NUM_KILLS):
            streams = asyncio.run(kill_under_streams(server, number))
            assert len(streams) == NUM_STREAMS
            for payloads in streams:
                *chunks, last = events(payloads)
                assert last["error"]["code"] == "engine_unavailable"
                assert chunks
                assert all("error" not in chunk for chunk in chunks)
            killed_s = time.monotonic()
            server.wait_ready()
            times_s.append(time.monotonic() - killed_s)
            server.wait_idle()
            states.append(settled(server.process.pid))
        print(f"ready again after {', '.join(f'{seconds:.1f}' for seconds in times_s)} s")
        assert max(times_s) < limit_s
        page = server.get("/metrics").text
        assert f'headcount_engine_restarts_total{{model_name="demo"}} {NUM_KILLS}.0' in page
        ended = f'headcount_requests_total{{finish_reason="error",model_name="demo"}} {NUM_KILLS * NUM_STREAMS}.0'
        assert ended in page
        # The first time, threads are made that stay: those in which long answers are put together.
        assert max(state.num_fds for state in states) <= states[0].num_fds
        assert max(state.num_threads for state in states) <= states[0].num_threads
        assert server.post("/v1/completions", {"model": "demo", "prompt": "a", "max_tokens": 2}).status_code == 200


def settled(pid: int) -> ProcessState:
    """The state with the fewest descriptors of a second: a connection that was just left is there a while longer."""
    found = []
    for _ in range(10):
        found.append(state_of(pid))
        time.sleep(0.1)
    return min(found, key=lambda state: state.num_fds)


async def kill_under_streams(server: ServerProcess, number: int) -> list[list[str]]:
    """The payloads of all streams, whose engine is killed once each of them has begun."""
    limits = httpx.Limits(max_connections=NUM_STREAMS, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=server.url, timeout=600, limits=limits) as client:
        begun: list[int] = []
        tasks = [asyncio.create_task(read_stream(client, number, i, begun)) for i in range(NUM_STREAMS)]
        while len(begun) < NUM_STREAMS:
            await asyncio.sleep(0.05)
        os.kill(server.engine_pids()[0], signal.SIGKILL)
        return await asyncio.gather(*tasks)


async def read_stream(client: httpx.AsyncClient, number: int, index: int, begun: list[int]) -> list[str]:
    body = {
        "model": "demo",
        "prompt": f"Round {number}, stream {index}:",
        "max_tokens": 4000,
        "ignore_eos": True,
        "stream": True,
    }
    payloads: list[str] = []
    async with client.stream("POST", "/v1/completions", json=body) as response:
        assert response.status_code == 200
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                payloads.append(line.removeprefix("data: "))
                if len(payloads) == 1:
                    begun.append(index)
    return payloads
