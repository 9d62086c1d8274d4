"""Many streams at once, some of them cut off: the rest complete, and every block comes back."""

import asyncio
import random
from typing import Any

import httpx
import pytest

from tests.e2e.server_process import ServerProcess, events

pytestmark = [pytest.mark.e2e, pytest.mark.demo]

NUM_STREAMS = 64


def test_64_streams_a_quarter_of_which_disconnect(demo_server: ServerProcess) -> None:
    results = asyncio.run(run_streams(demo_server.url))
    completed = [payloads for payloads in results if payloads is not None]
    assert len(completed) == NUM_STREAMS * 3 // 4
    for wanted, payloads in zip(lengths(), results, strict=True):
        if payloads is None:
            continue
        chunks = events(payloads)
        assert "error" not in chunks[-1]
        assert chunks[-1]["usage"]["completion_tokens"] == wanted[1]
        assert chunks[-2]["choices"][0]["finish_reason"] == "length"
    entry = demo_server.wait_idle()
    assert entry["bytes"]["used"] == entry["bytes"]["filled"] == 0
    assert entry["blocks"]["free"] + entry["blocks"]["cached"] == entry["blocks"]["total"]


def test_a_disconnect_frees_the_blocks_at_once(demo_server: ServerProcess) -> None:
    body = {"model": "demo", "prompt": "Once upon a time", "max_tokens": 4000, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{demo_server.url}/v1/completions", json=body, timeout=60) as response:
        lines = response.iter_lines()  # kept: a generator that is dropped closes the response
        next(lines)
        demo_server.wait_until(lambda entry: entry["blocks"]["used"] > 0)
    # One engine step, and the next snapshot of its state: far less than the minutes that 4,000 tokens take.
    demo_server.wait_idle(timeout_s=3)


def test_a_disconnect_before_a_whole_answer_frees_the_blocks(demo_server: ServerProcess) -> None:
    body = {"model": "demo", "prompt": "Once upon a time", "max_tokens": 4000, "ignore_eos": True, "n": 3}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{demo_server.url}/v1/completions", json=body, timeout=1)
    demo_server.wait_idle(timeout_s=3)


def lengths() -> list[tuple[int, int]]:
    """(prompt tokens, output tokens) of each stream."""
    chooser = random.Random(0)
    return [(chooser.randint(1, 200), chooser.randint(4, 32)) for _ in range(NUM_STREAMS)]


async def run_streams(url: str) -> list[list[str] | None]:
    limits = httpx.Limits(max_connections=NUM_STREAMS)
    async with httpx.AsyncClient(base_url=url, timeout=240, limits=limits) as client:
        return await asyncio.gather(
            *(run_stream(client, i, *wanted, cut_after=3 if i % 4 == 0 else None) for i, wanted in enumerate(lengths()))
        )


async def run_stream(
    client: httpx.AsyncClient, seed: int, num_prompt: int, num_output: int, cut_after: int | None
) -> list[str] | None:
    """The payloads of a whole stream; None for one that is left after `cut_after` chunks."""
    body: dict[str, Any] = {
        "model": "demo",
        "prompt": random.Random(seed).choices(range(100, 40_000), k=num_prompt),
        "max_tokens": num_output,
        "ignore_eos": True,
        "temperature": 1.0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    payloads: list[str] = []
    async with client.stream("POST", "/v1/completions", json=body) as response:
        assert response.status_code == 200
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                payloads.append(line.removeprefix("data: "))
            if cut_after is not None and len(payloads) >= cut_after:
                return None
    return payloads
