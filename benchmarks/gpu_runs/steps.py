"""Drives an engine's core: requests of random tokens, and the time of its steps."""

import random
import time
from typing import NamedTuple

import torch

from benchmarks.gpu_runs.timing import Device
from engine.core import EngineCore
from engine.request import Request, SamplingParams


class Job(NamedTuple):
    """One request.

    Attributes:
        prompt: token ids.
        num_output_tokens: whatever they are.
    """

    prompt: list[int]
    num_output_tokens: int


def random_jobs(core: EngineCore, lengths: list[tuple[int, int]]) -> list[Job]:
    """Prompts of random tokens; each pair is the tokens in and the tokens out."""
    draw = random.Random(0)
    return [Job(draw.choices(range(core.info.vocab_size), k=prompt), output) for prompt, output in lengths]


def run_all(core: EngineCore, jobs: list[Job], device: Device) -> float:
    """Seconds until every job is done."""
    _add(core, jobs)
    started_s = time.perf_counter()
    while core.has_requests:
        core.step()
    device.synchronize()
    return time.perf_counter() - started_s


class Decoding:
    """A batch in which every request decodes, ready to be timed.

    Args:
        core: the engine.
        batch_size: requests.
        num_tokens: context of each when it is ready.
        num_steps: that will be timed at most.
        device: of the engine.
    """

    def __init__(self, core: EngineCore, batch_size: int, num_tokens: int, num_steps: int, device: Device) -> None:
        self._core, self._device = core, device
        self._ids = [str(index) for index in range(batch_size)]
        # Early ones decode while later ones are prefilled: no request may end before the last one has begun.
        room = core.info.max_model_len - num_tokens
        if room < num_steps:
            raise ValueError(f"{num_steps} steps after {num_tokens} tokens are over {core.info.max_model_len}")
        _add(core, random_jobs(core, [(num_tokens, room)] * batch_size))
        waiting = set(self._ids)
        while waiting:
            waiting -= {delta.request_id for delta in core.step() if delta.token_ids}

    def step_s(self, num_steps: int) -> float:
        """Mean seconds of a step: with overlap, a single call says nothing about a single step."""
        self._device.synchronize()
        started_s = time.perf_counter()
        for _ in range(num_steps):
            self._core.step()
        self._device.synchronize()
        return (time.perf_counter() - started_s) / num_steps

    def kv_bytes_per_step(self) -> float:
        """Keys and values that the next step reads, as the engine counts them."""
        self._core.take_stats()
        before = self._core.take_stats().kv_read_bytes
        self._core.step()
        return self._core.take_stats().kv_read_bytes - before

    def idle_share(self, num_steps: int) -> float | None:
        """Share of the time in which no kernel runs, from the profiler's intervals; None without a GPU."""
        if self._device.is_rehearsal:
            return None
        activities = [torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profile:
            self.step_s(num_steps)
        kernels = [event for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
        return idle_share([(event.time_range.start, event.time_range.end) for event in kernels])

    def close(self) -> None:
        """End every request."""
        for request_id in self._ids:
            self._core.abort(request_id)
        while self._core.has_requests:
            self._core.step()


def idle_share(intervals: list[tuple[float, float]]) -> float:
    """Share of the time between the first begin and the last end that no interval covers."""
    busy, covered_to = 0.0, float("-inf")
    for begin, end in sorted(intervals):
        busy += max(0.0, end - max(begin, covered_to))
        covered_to = max(covered_to, end)
    whole = covered_to - min(begin for begin, _ in intervals)
    return 1 - busy / whole


def _add(core: EngineCore, jobs: list[Job]) -> None:
    for index, job in enumerate(jobs):
        params = SamplingParams(temperature=0, max_tokens=job.num_output_tokens, ignore_eos=True)
        core.add(Request(request_id=str(index), prompt_token_ids=job.prompt, sampling_params=params))
