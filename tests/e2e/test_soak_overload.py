"""Ten times as many clients as there are places: who is in is served in time, who is not is told when to come."""

import asyncio
import itertools
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from tests.e2e.process_state import state_of
from tests.e2e.server_process import ServerProcess

pytestmark = [pytest.mark.e2e, pytest.mark.demo, pytest.mark.soak, pytest.mark.timeout(1800)]

NUM_SEQS, NUM_WAITING = 4, 4
NUM_CLIENTS = 10 * (NUM_SEQS + NUM_WAITING)
MAX_TOKENS = 4
LATE_S = 0.5
"""What a client of this test, one of very many in a process, may be late by itself."""


class Attempt(NamedTuple):
    """A request that came in.

    Attributes:
        done_s: when it ended, from the start of the test.
        ttft_s: from the attempt that was taken to its first token.
        told_s: the first Retry-After; None where it was taken at once.
        waited_s: from the first attempt to the one that was taken.
    """

    done_s: float
    ttft_s: float
    told_s: int | None
    waited_s: float


def test_ten_times_overload(demo_folder: Path, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    seconds = pytestconfig.getoption("--overload-seconds")
    args = ("--max-num-seqs", str(NUM_SEQS), "--max-num-waiting", str(NUM_WAITING))
    with ServerProcess(*args, log=tmp_path / "log") as server:
        server.wait_ready()
        pids = (server.process.pid, *server.engine_pids())
        asyncio.run(load(server.url, NUM_SEQS, 10.0))  # so that there is a rate
        before = [state_of(pid).rss_bytes for pid in pids]
        attempts = asyncio.run(load(server.url, NUM_CLIENTS, seconds))
        after = [state_of(pid).rss_bytes for pid in pids]
        server.wait_idle()
    rate = len(attempts) / max(attempt.done_s for attempt in attempts)
    ttfts = sorted(attempt.ttft_s for attempt in attempts)
    refused = [attempt for attempt in attempts if attempt.told_s is not None]
    errors = [attempt.waited_s / attempt.told_s for attempt in refused if attempt.told_s]
    right = [is_right(attempt) for attempt in refused]
    growth = [now / then - 1 for then, now in zip(before, after, strict=True)]
    print(
        f"{len(attempts)} served, {rate:.2f} a second; TTFT median {statistics.median(ttfts):.2f}, max {ttfts[-1]:.2f} s"
    )
    print(
        f"{len(refused)} refused first: {sum(right)} came in as told; waited / told {min(errors):.2f} to {max(errors):.2f}"
    )
    print(f"resident memory: {', '.join(f'{part:+.1%}' for part in growth)}")
    assert len(refused) > NUM_CLIENTS // 2
    # Whoever is taken waits for those before him, and they are no more than there are places.
    assert ttfts[-1] < 2 * (NUM_SEQS + NUM_WAITING) / rate + LATE_S
    assert sum(right) >= 0.95 * len(right)
    assert max(growth) < 0.05


def is_right(attempt: Attempt) -> bool:
    """Within 2x of what it was told."""
    told_s = attempt.told_s or 0
    return 0.5 * told_s <= attempt.waited_s <= 2 * (told_s + LATE_S)


async def load(url: str, num_clients: int, seconds: float) -> list[Attempt]:
    """Clients that ask one thing after the other for so long, and then wait for what they have asked last."""
    limits = httpx.Limits(max_connections=num_clients, max_keepalive_connections=num_clients)
    start_s = time.monotonic()
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        lists = await asyncio.gather(*(ask_on(client, i, start_s, seconds) for i in range(num_clients)))
    return list(itertools.chain(*lists))


async def ask_on(client: httpx.AsyncClient, index: int, start_s: float, seconds: float) -> list[Attempt]:
    attempts = []
    for number in itertools.count():
        if time.monotonic() - start_s > seconds:
            return attempts
        attempts.append(await ask(client, f"Client {index}, question {number}:", start_s))
    return attempts


async def ask(client: httpx.AsyncClient, prompt: str, start_s: float) -> Attempt:
    """Ask until it is taken, each time as late as told."""
    body = {"model": "demo", "prompt": prompt, "max_tokens": MAX_TOKENS, "ignore_eos": True, "stream": True}
    told_s: int | None = None
    first_s = time.monotonic()
    while True:
        sent_s = time.monotonic()
        async with client.stream("POST", "/v1/completions", json=body) as response:
            if response.status_code == 200:
                lines = response.aiter_lines()
                await anext(lines)
                ttft_s = time.monotonic() - sent_s
                async for line in lines:
                    assert "error" not in line
                return Attempt(time.monotonic() - start_s, ttft_s, told_s, sent_s - first_s)
            assert response.status_code == 429, await response.aread()
            again_s = int(response.headers["retry-after"])
        told_s = told_s or again_s
        await asyncio.sleep(again_s)
