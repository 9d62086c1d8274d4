"""Half an hour of everything at once: nothing grows, and nothing is left."""

import asyncio
import random
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.process_state import ProcessState, state_of
from tests.e2e.server_process import ServerProcess

pytestmark = [pytest.mark.e2e, pytest.mark.demo, pytest.mark.soak, pytest.mark.timeout(7200)]

NUM_CLIENTS = 12
WARM_UP_S = 10.0
SAMPLE_S = 2.0
MAX_GROWTH = 0.02

BAD_BODIES: list[Any] = [
    {},
    {"model": "nobody", "prompt": "a"},
    {"model": "demo", "prompt": "a", "temperature": -1},
    {"model": "demo", "prompt": "a", "unknown": 1},
    {"model": "demo", "prompt": [10**9]},
    {"model": "demo", "prompt": "a", "max_tokens": 10**6},
]


def test_a_mixed_load_leaves_nothing_behind(demo_folder: Path, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    seconds = 60 * pytestconfig.getoption("--soak-minutes")
    with ServerProcess("--max-num-seqs", "8", log=tmp_path / "log") as server:
        server.wait_ready()
        pids = (server.process.pid, *server.engine_pids())
        asyncio.run(soak(server.url, pids, WARM_UP_S))  # the first chat starts the process that renders templates
        idle = states_when_idle(server, pids)
        done, samples = asyncio.run(soak(server.url, pids, seconds))
        end = states_when_idle(server, pids)
        entry = server.kv()
        page = server.get("/metrics").text
    growth = [growth_of([sample[i].rss_bytes for sample in samples]) for i in range(len(pids))]
    print(
        f"{sum(done.values())} requests: {dict(done)}; resident memory {', '.join(f'{part:+.2%}' for part in growth)}"
    )
    print(f"descriptors {[state.num_fds for state in idle]} -> {[state.num_fds for state in end]}")
    assert set(done) == set(KINDS)
    assert max(growth) < MAX_GROWTH
    assert entry["blocks"]["used"] == entry["bytes"]["filled"] == 0
    assert entry["blocks"]["free"] + entry["blocks"]["cached"] == entry["blocks"]["total"]
    assert all(now.num_fds <= then.num_fds for now, then in zip(end, idle, strict=True))
    assert [state.num_threads for state in end] <= [
        max(one.num_threads for one in column) for column in zip(*samples, strict=True)
    ]
    assert 'headcount_engine_restarts_total{model_name="demo"} 0.0' in page
    assert 'finish_reason="error",model_name="demo"} 0.0' in page


def states_when_idle(server: ServerProcess, pids: tuple[int, ...]) -> list[ProcessState]:
    server.wait_idle()
    time.sleep(6)  # uvicorn keeps idle connections for 5 s
    return [state_of(pid) for pid in pids]


def growth_of(values: list[int]) -> float:
    """Between the second and the last fifth of the time: the first one warms up."""
    fifth = max(1, len(values) // 5)
    return statistics.median(values[-fifth:]) / statistics.median(values[fifth : 2 * fifth]) - 1


async def soak(url: str, pids: tuple[int, ...], seconds: float) -> tuple[Counter[str], list[list[ProcessState]]]:
    """What was done, and the states of the processes meanwhile."""
    done: Counter[str] = Counter()
    samples: list[list[ProcessState]] = []
    deadline_s = time.monotonic() + seconds
    async with httpx.AsyncClient(base_url=url, timeout=600) as client, asyncio.TaskGroup() as group:
        for i in range(NUM_CLIENTS):
            group.create_task(ask_on(client, random.Random(i), done, deadline_s))
        while time.monotonic() < deadline_s:
            await asyncio.sleep(SAMPLE_S)
            samples.append([state_of(pid) for pid in pids])
    return done, samples


async def ask_on(client: httpx.AsyncClient, rng: random.Random, done: Counter[str], deadline_s: float) -> None:
    names = list(KINDS)
    while time.monotonic() < deadline_s:
        name = rng.choice(names)
        await KINDS[name](client, rng)
        done[name] += 1


def body_of(rng: random.Random, **fields: Any) -> dict[str, Any]:
    """A request whose beginning others share, and whose end they do not."""
    words = " ".join(rng.choices(("red", "green", "blue", "black", "white"), k=rng.randint(1, 60)))
    prompt = f"{'Once upon a time there was a colour. ' * rng.randint(0, 6)}{words}"
    fixed = {
        "model": "demo",
        "prompt": prompt,
        "max_tokens": rng.randint(1, 24),
        "temperature": 1.0,
        "ignore_eos": True,
    }
    return {**fixed, **fields}


async def whole(client: httpx.AsyncClient, rng: random.Random) -> None:
    fields = rng.choice(({}, {"n": 3}, {"logprobs": 5}, {"prompt_logprobs": 2}, {"stop": ["e"]}, {"kv_receipt": True}))
    assert (await client.post("/v1/completions", json=body_of(rng, **fields))).status_code == 200


async def chat(client: httpx.AsyncClient, rng: random.Random) -> None:
    body = {"model": "demo", "messages": [{"role": "user", "content": body_of(rng)["prompt"]}], "max_tokens": 8}
    assert (await client.post("/v1/chat/completions", json=body)).status_code == 200


async def stream(client: httpx.AsyncClient, rng: random.Random) -> None:
    async with client.stream("POST", "/v1/completions", json=body_of(rng, stream=True)) as response:
        lines = [line async for line in response.aiter_lines() if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    assert not any('"error"' in line for line in lines)


async def leave(client: httpx.AsyncClient, rng: random.Random) -> None:
    """Go away in the middle of a stream."""
    async with client.stream("POST", "/v1/completions", json=body_of(rng, stream=True, max_tokens=500)) as response:
        lines = response.aiter_lines()
        for _ in range(rng.randint(1, 5)):
            await anext(lines)


async def expire(client: httpx.AsyncClient, rng: random.Random) -> None:
    response = await client.post("/v1/completions", json=body_of(rng, max_tokens=2000, timeout=rng.uniform(0.05, 1)))
    assert (response.status_code, response.json()["error"]["code"]) == (408, "deadline_exceeded")


async def mistake(client: httpx.AsyncClient, rng: random.Random) -> None:
    assert (await client.post("/v1/completions", json=rng.choice(BAD_BODIES))).status_code in (400, 404)


async def look(client: httpx.AsyncClient, rng: random.Random) -> None:
    for path in ("/metrics", "/v1/kv", "/v1/kv/blocks", "/health", "/v1/models"):
        assert (await client.get(path)).status_code == 200


KINDS = {
    "whole": whole,
    "chat": chat,
    "stream": stream,
    "leave": leave,
    "expire": expire,
    "mistake": mistake,
    "look": look,
}
