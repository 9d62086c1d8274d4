"""One variant in an engine of its own: how many requests fit, and what the workload gets out of it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import psutil

from engine.client import EngineClient
from engine.errors import EngineError
from engine.info import EngineInfo
from server.compare.capacity import Wave, largest_wave, run_wave, wave_lengths, wave_prompts
from server.compare.errors import ComparisonFailedError
from server.compare.plan import Job, PlannedVariant
from server.compare.report import Measured, Phase, Progress
from server.compare.streams import answer, make_request, settled_stats
from server.load.prompts import draw_prompts
from server.load.summary import sum_up
from server.load.times import RequestFailedError, RequestTimes, closed_loop

OnProgress = Callable[[Progress], None]
Tell = Callable[[Phase, int, int], None]
"""Takes a phase of the variant at hand, how many of its steps are done, and of how many."""


async def measure_variant(job: Job, variant: PlannedVariant, folder: Path, on_progress: OnProgress) -> Measured:
    """Start an engine, measure its capacity, put it under the workload, and end it.

    Args:
        job: the comparison.
        variant: what is measured.
        folder: its checkpoint.
        on_progress: called as it goes on.

    Raises:
        ComparisonFailedError: it cannot be loaded, or a request did not end as it should.
    """
    tell = partial(_tell, on_progress, variant)
    try:
        async with _engine(job, variant, folder) as client:
            tell("start", 0, 1)
            info = await client.wait_ready()
            tell("start", 1, 1)
            wave = await _measure_capacity(client, info, job, variant, tell)
            return await _measure_load(client, info, job, wave, tell)
    except (EngineError, RequestFailedError) as error:
        raise ComparisonFailedError(f"{variant.title}: {error}") from error


def _tell(on_progress: OnProgress, variant: PlannedVariant, phase: Phase, num_done: int, num_total: int) -> None:
    on_progress(Progress(phase, variant.num_kv_heads, num_done, num_total))


@asynccontextmanager
async def _engine(job: Job, variant: PlannedVariant, folder: Path) -> AsyncIterator[EngineClient]:
    client = EngineClient(f"{variant.num_kv_heads} KV heads", folder, job.engine)
    await client.start()
    try:
        yield client
    finally:
        await client.shutdown()


async def _measure_capacity(
    client: EngineClient, info: EngineInfo, job: Job, variant: PlannedVariant, tell: Tell
) -> Wave:
    """The largest number of requests that run at once; as a rule it takes two waves, the planned one and one more."""
    workload = job.settings.workload
    lengths = wave_lengths(workload, info.geometry.block_size, job.engine.scheduler.kv_watermark)
    num_waves = 0

    async def run(num_requests: int) -> Wave:
        nonlocal num_waves
        tell("capacity", num_waves, max(2, num_waves + 1))
        num_waves += 1
        prompts = wave_prompts(workload, job.token_ids, lengths.prompt_tokens, num_requests)
        return await run_wave(client, prompts, lengths.max_tokens, f"wave-{num_waves}")

    wave = await largest_wave(run, variant.num_requests, job.engine.scheduler.max_num_seqs)
    tell("capacity", num_waves, num_waves)
    return wave


async def _measure_load(client: EngineClient, info: EngineInfo, job: Job, wave: Wave, tell: Tell) -> Measured:
    workload, before = job.settings.workload, client.stats
    drawn = draw_prompts(job.token_ids, workload.prompt_tokens, workload.prompt_tokens, workload.seed)
    outputs: list[list[int]] = [[] for _ in range(workload.num_requests)]
    num_done = 0

    async def send(place: int, prompt: list[int]) -> RequestTimes:
        found = await answer(client, make_request(f"load-{place}", prompt, workload.max_tokens))
        outputs[place] = found.token_ids
        return found.times

    def advance() -> None:
        nonlocal num_done
        num_done += 1
        tell("load", num_done, workload.num_requests)

    tell("load", 0, workload.num_requests)
    sends = [partial(send, place, next(drawn)) for place in range(workload.num_requests)]
    cpu_before_s = _cpu_s(client)
    level = await closed_loop(sends, workload.concurrency, advance)
    for message, count in level.errors.items():
        raise RequestFailedError(f"{count} of {workload.num_requests} requests failed: {message}")
    cpu_s = _cpu_s(client) - cpu_before_s
    num_tokens = workload.num_requests * workload.max_tokens
    after = await settled_stats(client, before.generation_tokens + num_tokens)
    return Measured(info, wave, sum_up(level, {}), cpu_s, after.preemptions - before.preemptions, outputs)


def _cpu_s(client: EngineClient) -> float:
    """Seconds that all threads of the engine's process have computed so far."""
    times = psutil.Process(client.pid).cpu_times()
    return times.user + times.system
