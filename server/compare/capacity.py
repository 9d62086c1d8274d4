"""How many requests of one length really fit in a KV pool at once.

A wave of n requests is sent twice. The first time each computes its prompt and ends; what it computed stays in the prefix
cache. The second time all begin in one step, with one token each to compute, and grow side by side: when they end, each
holds all the blocks of its length, and so do all others. They fit if every one of them had its first token before
any had its last, and none was preempted. In the second wave nothing but decoding happens, so what attention reads in it
is what decoded tokens read.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from configs.compare import Workload
from engine.client import EngineClient
from server.compare.streams import Answer, answer, make_request, settled_stats
from server.load.prompts import draw_prompts


class Wave(NamedTuple):
    """What came of a number of requests that were sent at once.

    Attributes:
        fits: all of them ran at the same time, to their end, and none was preempted.
        num_peak_blocks: most blocks that one of them held.
        kv_read_bytes: that attention read.
        wall_s: from the first request's start to the last one's end.
    """

    num_requests: int
    fits: bool
    num_peak_blocks: int
    kv_read_bytes: int
    num_output_tokens: int
    wall_s: float

    @property
    def kv_read_bytes_per_token(self) -> float:
        """For each decoded token."""
        return self.kv_read_bytes / self.num_output_tokens

    @property
    def output_tokens_per_s(self) -> float:
        """Of decoding alone."""
        return self.num_output_tokens / self.wall_s


class WaveLengths(NamedTuple):
    """Tokens of a wave's requests."""

    prompt_tokens: int
    max_tokens: int


def wave_lengths(workload: Workload, block_size: int, kv_watermark: float) -> WaveLengths:
    """The workload's length, with a prompt that is one token more than whole blocks: they are found in the prefix cache.

    192 and 64 tokens in blocks of 16 are 177 and 79. Where the answer is short the prompt is shorter too: all must begin
    while the scheduler still has its reserve, which running requests may use.

    Args:
        workload: its length is kept.
        block_size: tokens in a block.
        kv_watermark: share of the blocks that a request leaves when it starts beside others.
    """
    num_blocks = -(-workload.request_tokens // block_size)
    most_at_start = max(1, int((1 - kv_watermark) * num_blocks))
    num_prompt_blocks = min((workload.prompt_tokens - 1) // block_size, most_at_start - 1)
    prompt_tokens = num_prompt_blocks * block_size + 1
    return WaveLengths(prompt_tokens, workload.request_tokens - prompt_tokens)


async def largest_wave(run: Callable[[int], Awaitable[Wave]], planned: int, at_most: int) -> Wave:
    """The largest wave that fits, from the planned one on upward or downward.

    Args:
        run: sends a wave of so many requests.
        planned: at which to begin.
        at_most: places of the engine.
    """
    wave = await run(planned)
    while not wave.fits and wave.num_requests > 1:
        wave = await run(wave.num_requests - 1)
    while wave.num_requests >= planned and wave.num_requests < at_most:
        larger = await run(wave.num_requests + 1)
        if not larger.fits:
            break
        wave = larger
    return wave


async def run_wave(client: EngineClient, prompts: Sequence[list[int]], max_tokens: int, name: str) -> Wave:
    """Fill the prefix cache with `prompts`, then let all grow by `max_tokens` tokens at once.

    Raises:
        RequestFailedError: a request did not end as it should.
    """
    before = client.stats.generation_tokens
    await _all(client, prompts, 1, f"{name}-fill")
    filled = await settled_stats(client, before + len(prompts))
    started_s = time.perf_counter()
    answers = await _all(client, prompts, max_tokens, name)
    wall_s = time.perf_counter() - started_s
    num_output_tokens = len(prompts) * max_tokens
    after = await settled_stats(client, filled.generation_tokens + num_output_tokens)
    were_together = max(one.first_s for one in answers) < min(one.last_s for one in answers)
    return Wave(
        num_requests=len(prompts),
        fits=were_together and after.preemptions == filled.preemptions,
        num_peak_blocks=max(one.num_peak_blocks for one in answers),
        kv_read_bytes=after.kv_read_bytes - filled.kv_read_bytes,
        num_output_tokens=num_output_tokens,
        wall_s=wall_s,
    )


def wave_prompts(workload: Workload, token_ids: Sequence[int], num_tokens: int, num_prompts: int) -> list[list[int]]:
    """Prompts of a wave; a larger one begins with those of a smaller one, and none is the workload's."""
    drawn = draw_prompts(token_ids, num_tokens, num_tokens, workload.seed + 1)
    return [next(drawn) for _ in range(num_prompts)]


async def _all(client: EngineClient, prompts: Sequence[list[int]], max_tokens: int, name: str) -> list[Answer]:
    requests = [make_request(f"{name}-{place}", prompt, max_tokens) for place, prompt in enumerate(prompts)]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(answer(client, request)) for request in requests]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from failed
    return [task.result() for task in tasks]
