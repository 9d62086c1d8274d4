"""What the watermark of the scheduler costs and saves: the real scheduler and block manager, a simulated device.

    python benchmarks/watermark.py

Requests arrive faster than they are served, with prompts and outputs of log-normal lengths; nobody knows the outputs'
beforehand. A step takes 10 ms, 0.25 ms for each request that decodes and 0.05 ms for each prompt token. Everything is drawn
from a seed: two runs print the same.
"""

import argparse
import random
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from configs.scheduler import SchedulerSettings
from engine.request import Request, SamplingParams, ScheduledBatch
from engine.scheduler import Scheduler
from kvcache.geometry import KVGeometry, LayerGeometry
from kvcache.manager import KVCacheManager

GEOMETRY = KVGeometry((LayerGeometry(8, 2, 64, 64),), dtype_bytes=2, block_size=16)
STEP_S, DECODE_S, PREFILL_TOKEN_S = 0.010, 0.00025, 0.00005


class Outcome(NamedTuple):
    preemptions: int
    recomputed_tokens: int
    output_tokens: int
    seconds: float
    mean_running: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--watermarks", type=float, nargs="+", default=[0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3])
    parser.add_argument("--requests", type=int, default=1000)
    args = parser.parse_args()
    table = Table("blocks", "prefix cache", "watermark", "preemptions", "recomputed", "running", "tokens/s")
    for num_blocks in (400, 2000):
        for is_cached in (True, False):
            for watermark in args.watermarks:
                outcome = simulate(num_blocks, watermark, args.requests, is_cached=is_cached)
                table.add_row(*cells(num_blocks, watermark, outcome, is_cached=is_cached))
    Console().print(table)


def cells(num_blocks: int, watermark: float, outcome: Outcome, *, is_cached: bool) -> list[str]:
    return [
        str(num_blocks),
        "on" if is_cached else "off",
        f"{watermark:.1%}",
        str(outcome.preemptions),
        f"{outcome.recomputed_tokens / outcome.output_tokens:.1%}",
        f"{outcome.mean_running:.1f}",
        f"{outcome.output_tokens / outcome.seconds:.0f}",
    ]


def simulate(num_blocks: int, watermark: float, num_requests: int, *, is_cached: bool) -> Outcome:
    """All requests from the first step to the last."""
    rng = random.Random(0)
    manager = KVCacheManager(GEOMETRY, num_blocks, enable_prefix_cache=is_cached)
    settings = SchedulerSettings(max_num_seqs=256, max_num_batched_tokens=2048, kv_watermark=watermark)
    scheduler = Scheduler(settings, manager)
    requests = [draw_request(rng, number) for number in range(num_requests)]
    for request in requests:
        scheduler.add(request)
    seconds, num_steps, num_running, recomputed = 0.0, 0, 0, 0
    highest = dict.fromkeys((request.request_id for request in requests), 0)
    while (batch := scheduler.schedule()) is not None:
        step_s = seconds_of(batch)
        scheduler.observe(batch, step_s)
        recomputed += sum(
            max(0, min(item.seq_len, highest[item.request.request_id]) - item.num_computed_tokens)
            for item in batch.scheduled
        )
        highest |= {i.request.request_id: max(i.seq_len, highest[i.request.request_id]) for i in batch.scheduled}
        seconds, num_steps, num_running = seconds + step_s, num_steps + 1, num_running + scheduler.num_running
        advance(batch, scheduler, manager, rng)
    output_tokens = sum(len(request.output_token_ids) for request in requests)
    return Outcome(scheduler.num_preemptions, recomputed, output_tokens, seconds, num_running / num_steps)


def draw_request(rng: random.Random, number: int) -> Request:
    num_prompt_tokens = min(2000, max(8, int(rng.lognormvariate(5.3, 1.0))))
    max_tokens = min(2000, max(8, int(rng.lognormvariate(5.3, 0.8))))
    return Request(
        request_id=str(number),
        prompt_token_ids=[rng.randrange(50_000) for _ in range(num_prompt_tokens)],
        sampling_params=SamplingParams(max_tokens=max_tokens),
        arrival_time_s=float(number),
    )


def seconds_of(batch: ScheduledBatch) -> float:
    num_decodes = sum(item.num_scheduled_tokens == 1 for item in batch.scheduled)
    return STEP_S + num_decodes * DECODE_S + (batch.num_tokens - num_decodes) * PREFILL_TOKEN_S


def advance(batch: ScheduledBatch, scheduler: Scheduler, manager: KVCacheManager, rng: random.Random) -> None:
    """What the core does after a step, with random tokens."""
    for item in batch.scheduled:
        request = item.request
        request.num_computed_tokens = item.seq_len
        manager.commit_tokens(request.request_id, item.seq_len, request.token_ids)
        if item.samples:
            request.output_token_ids.append(rng.randrange(50_000))
            if len(request.output_token_ids) >= request.sampling_params.max_tokens:
                scheduler.finish(request.request_id)


if __name__ == "__main__":
    main()
