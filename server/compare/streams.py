"""Requests to an engine client, timed."""

import asyncio
import time
from typing import NamedTuple

from engine.client import EngineClient
from engine.errors import EngineError
from engine.info import EngineStats
from engine.request import FinishReason, Request, SamplingParams
from server.load.times import RequestFailedError, RequestTimes

SETTLE_TIMEOUT_S = 30.0
SETTLE_POLL_S = 0.02


class Answer(NamedTuple):
    """What came of one request.

    Attributes:
        first_s: when its first token came, on the clock of time.perf_counter.
        last_s: when its last one came.
        num_peak_blocks: most blocks that it held.
    """

    times: RequestTimes
    token_ids: list[int]
    first_s: float
    last_s: float
    num_peak_blocks: int


def make_request(request_id: str, prompt_token_ids: list[int], max_tokens: int) -> Request:
    """A greedy request for exactly `max_tokens` tokens."""
    params = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
    return Request(
        request_id=request_id,
        prompt_token_ids=prompt_token_ids,
        sampling_params=params,
        arrival_time_s=time.time(),
        enable_kv_receipt=True,
    )


async def answer(client: EngineClient, request: Request) -> Answer:
    """Send a request and wait for its end.

    Raises:
        RequestFailedError: it was refused, or it ended before all its tokens were there.
    """
    due_s, arrivals_s, token_ids, num_peak_blocks = time.perf_counter(), [], [], 0
    try:
        stream = client.generate(request)
    except EngineError as error:
        raise RequestFailedError(str(error)) from error
    try:
        async for delta in stream:
            if delta.token_ids:
                arrivals_s.append(time.perf_counter())
                token_ids += delta.token_ids
            if delta.kv_receipt is not None:
                num_peak_blocks = delta.kv_receipt.num_peak_blocks
    finally:
        stream.close()
    if delta.finish_reason is not FinishReason.LENGTH:
        raise RequestFailedError(delta.error or f"a request ended early: {delta.finish_reason}")
    times = RequestTimes.of(
        due_s,
        arrivals_s,
        time.perf_counter(),
        prompt_tokens=request.num_prompt_tokens,
        output_tokens=len(token_ids),
    )
    return Answer(times, token_ids, arrivals_s[0], arrivals_s[-1], num_peak_blocks)


async def settled_stats(client: EngineClient, num_generation_tokens: int) -> EngineStats:
    """The counters once they hold `num_generation_tokens` tokens and nothing runs: snapshots come a moment later.

    Raises:
        RequestFailedError: that does not come to pass.
    """
    deadline_s = time.monotonic() + SETTLE_TIMEOUT_S
    while time.monotonic() < deadline_s:
        stats = client.stats
        if stats.generation_tokens >= num_generation_tokens and stats.num_running + stats.num_waiting == 0:
            return stats
        await asyncio.sleep(SETTLE_POLL_S)
    raise RequestFailedError(f"the engine's counters did not come to rest in {SETTLE_TIMEOUT_S:.0f} s")
