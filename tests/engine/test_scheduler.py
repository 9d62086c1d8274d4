"""What runs in a step, and who gives way."""

from collections.abc import Callable

import pytest

from configs.scheduler import SchedulerSettings
from engine.request import Request, RequestStatus, ScheduledBatch
from engine.scheduler import Scheduler
from kvcache.geometry import KVGeometry, LayerGeometry
from kvcache.manager import KVCacheManager
from tests.engine.tiny_models import make_request, prompt

GEOMETRY = KVGeometry(layers=(LayerGeometry(4, 2, 8, 8),), dtype_bytes=2, block_size=4)
Build = Callable[..., Scheduler]


@pytest.fixture
def build() -> Build:
    def make(num_blocks: int = 100, **limits: int) -> Scheduler:
        manager = KVCacheManager(GEOMETRY, num_blocks, enable_prefix_cache=False)
        return Scheduler(SchedulerSettings(**limits), manager)

    return make


def step(scheduler: Scheduler) -> dict[str, int]:
    """Schedule, pretend that it ran (every sample is token 5), and tell who computed how many tokens."""
    batch = scheduler.schedule()
    return advance(batch) if batch else {}


def advance(batch: ScheduledBatch) -> dict[str, int]:
    for item in batch.scheduled:
        item.request.num_computed_tokens = item.seq_len
        if item.seq_len == item.request.num_tokens:
            item.request.output_token_ids.append(5)
    return {item.request.request_id: item.num_scheduled_tokens for item in batch.scheduled}


def request(name: str, length: int, **fields: float) -> Request:
    return make_request(name, prompt(length), max_tokens=1000, **fields)


def test_a_long_prompt_is_spread_over_steps(build: Build) -> None:
    scheduler = build(max_num_batched_tokens=10)
    scheduler.add(request("a", 25))
    assert [step(scheduler) for _ in range(4)] == [{"a": 10}, {"a": 10}, {"a": 5}, {"a": 1}]


def test_decodes_come_before_prefills(build: Build) -> None:
    scheduler = build(max_num_batched_tokens=10)
    scheduler.add(request("long", 25))
    step(scheduler)
    scheduler.add(request("short", 2))
    assert step(scheduler) == {"long": 10}
    assert step(scheduler) == {"long": 5, "short": 2}
    scheduler.add(request("next", 30))
    assert step(scheduler) == {"long": 1, "short": 1, "next": 8}
    assert step(scheduler) == {"long": 1, "short": 1, "next": 8}


def test_first_come_first_served_within_a_priority(build: Build) -> None:
    scheduler = build(max_num_seqs=2)
    for name, priority, arrival in (("late", 0, 3.0), ("early", 0, 1.0), ("urgent", -1, 9.0)):
        scheduler.add(request(name, 4, priority=priority, arrival_time_s=arrival))
    assert list(step(scheduler)) == ["urgent", "early"]
    scheduler.finish("urgent")
    assert list(step(scheduler)) == ["early", "late"]


def test_the_latest_arrival_is_preempted_and_resumes(build: Build) -> None:
    scheduler = build(num_blocks=5)
    first, second = request("first", 8, arrival_time_s=1), request("second", 8, arrival_time_s=2)
    scheduler.add(first)
    scheduler.add(second)
    assert step(scheduler) == {"first": 8, "second": 8}
    # Both need a third block for their ninth token; there is one left.
    assert step(scheduler) == {"first": 1}
    assert (second.status, second.num_computed_tokens) == (RequestStatus.PREEMPTED, 0)
    assert scheduler.num_preemptions == 1
    scheduler.finish("first")
    assert step(scheduler) == {"second": 9}


def test_a_preempted_request_goes_ahead_of_later_arrivals(build: Build) -> None:
    scheduler = build(num_blocks=5)
    for name, arrival in (("first", 1), ("second", 2)):
        scheduler.add(request(name, 8, arrival_time_s=arrival))
    step(scheduler)
    step(scheduler)
    scheduler.add(request("third", 1, arrival_time_s=3))
    assert list(step(scheduler)) == ["first"], "third would fit, but must not overtake"
    scheduler.finish("first")
    assert list(step(scheduler)) == ["second", "third"]


def test_a_decode_gives_way_to_a_more_urgent_prefill_within_the_step(build: Build) -> None:
    scheduler = build(num_blocks=7, max_num_batched_tokens=8)
    scheduler.add(request("late", 3))
    step(scheduler)
    scheduler.add(request("urgent", 24, priority=-1))
    assert step(scheduler) == {"late": 1, "urgent": 7}
    assert step(scheduler) == {"late": 1, "urgent": 7}
    # Together they would need an eighth block: late, although scheduled already, is taken out of the step again.
    assert step(scheduler) == {"urgent": 7}
    assert scheduler.num_preemptions == 1


def launch(scheduler: Scheduler) -> list[str]:
    """Schedule a step and say who is in it; what it samples stays pending."""
    batch = scheduler.schedule()
    for item in batch.scheduled if batch else []:
        item.request.num_pending_tokens += item.samples
        item.request.num_computed_tokens = item.seq_len
    return [item.request.request_id for item in batch.scheduled] if batch else []


def test_a_pending_token_is_computed_next_unless_it_is_the_last(build: Build) -> None:
    scheduler = build()
    scheduler.add(make_request("long", prompt(4), max_tokens=9, arrival_time_s=1))
    scheduler.add(make_request("short", prompt(4), max_tokens=1, arrival_time_s=2))
    assert launch(scheduler) == ["long", "short"]
    assert launch(scheduler) == ["long"]
    assert scheduler.num_running == 2


def test_nobody_gives_way_where_somebody_is_ending(build: Build) -> None:
    scheduler = build(num_blocks=4)
    for name, max_tokens, arrival in (("first", 9, 1), ("second", 1, 2)):
        scheduler.add(make_request(name, prompt(8), max_tokens=max_tokens, arrival_time_s=arrival))
    assert launch(scheduler) == ["first", "second"]
    # The first needs a third block; the second's two are about to be free.
    assert scheduler.schedule() is None
    assert scheduler.num_preemptions == 0
    scheduler.finish("second")
    assert launch(scheduler) == ["first"]


def test_nothing_to_do(build: Build) -> None:
    assert build().schedule() is None


def test_finishing_twice_or_an_unknown_request(build: Build) -> None:
    scheduler = build()
    scheduler.add(request("a", 4))
    assert scheduler.finish("a") is not None
    assert scheduler.finish("a") is None
    assert scheduler.finish("never") is None
    assert (scheduler.num_waiting, scheduler.num_waiting_tokens) == (0, 0)


def test_the_step_never_passes_its_budget(build: Build) -> None:
    scheduler = build(max_num_batched_tokens=7, max_num_seqs=5)
    for i in range(12):
        scheduler.add(request(f"r{i}", 1 + 3 * i, arrival_time_s=i))
    for _ in range(40):
        assert sum(step(scheduler).values()) <= 7
        assert scheduler.num_running <= 5
