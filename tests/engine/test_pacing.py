"""Chunks beside streams follow the time that steps take: simulated machines, from a slow CPU to a GPU."""

import random
from typing import NamedTuple

import pytest

from engine.pacing import MIN_PREFILL_TOKENS, StepPacer

BUDGET = 2048


class Machine(NamedTuple):
    """step_s = fixed_s + num_decodes * decode_s + tokens * (token_s + context * context_s)."""

    fixed_s: float
    decode_s: float
    token_s: float
    context_s: float
    noise: float = 0.0

    def step_s(self, num_decodes: int, num_tokens: int, context_len: int, rng: random.Random) -> float:
        each = self.token_s + context_len * self.context_s
        step_s = self.fixed_s + num_decodes * self.decode_s + num_tokens * each
        return step_s * (1 + rng.uniform(0, self.noise))


CPU = Machine(0.015, 0.002, 0.0012, 1e-6)
GPU = Machine(0.006, 0.00005, 0.00002, 2e-9)
MACHINES = {"cpu": CPU, "gpu": GPU, "noisy-cpu": CPU._replace(noise=0.3)}


def prefill(machine: Machine, pacer: StepPacer, num_decodes: int, num_tokens: int = 4000) -> list[tuple[float, int]]:
    """A long prompt beside streams: (seconds, prompt tokens) of each step, after some that only decode."""
    rng = random.Random(0)
    for _ in range(10):
        pacer.observe(num_decodes, 0, machine.step_s(num_decodes, 0, 0, rng))
    steps, done = [], 0
    while done < num_tokens:
        chunk = min(pacer.max_prefill_tokens(num_decodes), num_tokens - done)
        step_s = machine.step_s(num_decodes, chunk, done, rng)
        pacer.observe(num_decodes, chunk, step_s)
        steps.append((step_s, chunk))
        done += chunk
    return steps


@pytest.mark.parametrize("num_decodes", [1, 16, 64])
@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_no_step_takes_longer_than_allowed(machine: Machine, num_decodes: int) -> None:
    steps = prefill(machine, StepPacer(2.0, BUDGET), num_decodes)
    alone_s = machine.step_s(num_decodes, 0, 0, random.Random(0))
    floor_s = MIN_PREFILL_TOKENS * (machine.token_s + 4000 * machine.context_s)
    assert max(step_s for step_s, _ in steps) <= (1 + machine.noise) * max(2.4 * alone_s, alone_s + floor_s)


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_the_prompt_gets_its_share_of_the_time(machine: Machine) -> None:
    steps = prefill(machine, StepPacer(2.0, BUDGET), 16)
    alone_s = machine.step_s(16, 0, 0, random.Random(0))
    assert sum(step_s - alone_s for step_s, _ in steps) >= 0.35 * sum(step_s for step_s, _ in steps)


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_every_prompt_that_waits_has_a_share(machine: Machine) -> None:
    pacer = StepPacer(2.0, BUDGET)
    prefill(machine, pacer, 64)
    one, two, twelve = (pacer.max_prefill_tokens(64, num_prompts) for num_prompts in (1, 2, 12))
    assert one > 8
    assert two == pytest.approx(2 * one, abs=1)
    assert twelve == pytest.approx(min(BUDGET, 12 * one), abs=12)
    assert StepPacer(2.0, BUDGET).max_prefill_tokens(4, 50) == 8, "nothing is measured yet"


def test_a_large_slowdown_is_no_limit() -> None:
    assert max(chunk for _, chunk in prefill(CPU, StepPacer(1000.0, BUDGET), 16)) == BUDGET


def test_without_streams_only_the_budget_counts() -> None:
    pacer = StepPacer(2.0, BUDGET)
    prefill(CPU, pacer, 16)
    assert pacer.max_prefill_tokens(0) == BUDGET


@pytest.mark.parametrize(("budget", "floor"), [(16, 8), (512, 8), (2048, 8), (8192, 32)])
def test_a_prompt_is_never_starved(budget: int, floor: int) -> None:
    """Also where any prompt token costs ten decodes, as when decoding runs as a recorded graph and prefill does not."""
    pacer = StepPacer(2.0, budget)
    steps = prefill(Machine(0.001, 0, 0.01, 0), pacer, 4)
    assert {chunk for _, chunk in steps[:-1]} == {floor}


def test_before_anything_is_measured_chunks_are_small() -> None:
    assert StepPacer(2.0, BUDGET).max_prefill_tokens(3) == 8


def test_one_stream_gets_smaller_chunks_than_many() -> None:
    """How long a step may take depends on how many decode in it, also when that has changed since the last chunk."""
    pacer = StepPacer(2.0, BUDGET)
    prefill(GPU._replace(decode_s=0.001), pacer, 1)
    prefill(GPU._replace(decode_s=0.001), pacer, 60)
    assert 3 * pacer.max_prefill_tokens(1) < pacer.max_prefill_tokens(60)
    assert pacer.max_prefill_tokens(20) == pacer.max_prefill_tokens(1)


def test_one_slow_step_is_forgotten() -> None:
    pacer = StepPacer(2.0, BUDGET)
    usual = prefill(GPU, pacer, 8)[-2][1]
    pacer.observe(8, usual, 5.0)
    assert pacer.max_prefill_tokens(8) == 8
    assert prefill(GPU, pacer, 8, 20_000)[-2][1] > usual / 3
