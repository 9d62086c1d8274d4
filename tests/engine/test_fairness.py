"""Nobody overtakes, nobody starves: random arrivals on a small pool (fake device)."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.request import Request, RequestStatus
from kvcache.geometry import KVGeometry
from tests.engine.fake_device import HYBRID, ONE_GROUP, FakeDevice

SIZES = st.tuples(st.integers(1, 40), st.integers(1, 12))
ARRIVALS = st.lists(st.tuples(st.integers(0, 30), SIZES, st.integers(-1, 1)), min_size=1, max_size=25)
LIMITS = st.fixed_dictionaries(
    {
        "max_num_batched_tokens": st.sampled_from([6, 16, 64]),
        "max_num_seqs": st.sampled_from([1, 3, 16]),
        "kv_watermark": st.sampled_from([0.0, 0.05, 0.3]),
        "max_decode_slowdown": st.sampled_from([1.1, 2.0, 1000.0]),
    }
)


def key(request: Request) -> tuple[int, float]:
    return request.priority, request.arrival_time_s


def step_in_order(device: FakeDevice) -> None:
    """One step; whoever starts in it, new or preempted, comes before all that go on waiting."""
    waiting = [r for r in device.requests.values() if r.status in (RequestStatus.WAITING, RequestStatus.PREEMPTED)]
    batch = device.step()
    started = [item.request for item in batch.scheduled] if batch else []
    started = [request for request in started if request in waiting]
    left = [r for r in device.requests.values() if r.status in (RequestStatus.WAITING, RequestStatus.PREEMPTED)]
    assert max(map(key, started), default=(-9, 0)) < min(map(key, left), default=(9, 0))


@pytest.mark.parametrize("geometry", [ONE_GROUP, HYBRID], ids=["one-group", "hybrid"])
@given(arrivals=ARRIVALS, limits=LIMITS, seed=st.integers(0, 9), is_cached=st.booleans())
@settings(max_examples=60, deadline=None)
def test_all_are_admitted_in_order_and_end(
    geometry: KVGeometry, arrivals: list, limits: dict[str, float], seed: int, is_cached: bool
) -> None:
    device = FakeDevice(geometry, 40, seed=seed, enable_prefix_cache=is_cached, **limits)
    arrivals = sorted(arrivals, key=lambda arrival: arrival[0])
    while arrivals or device.scheduler.num_running + device.scheduler.num_waiting:
        while arrivals and arrivals[0][0] <= device.num_steps:
            _, (num_prompt_tokens, max_tokens), priority = arrivals.pop(0)
            device.add(num_prompt_tokens, max_tokens, priority=priority)
        if not device.scheduler.num_running + device.scheduler.num_waiting and arrivals:
            device.num_steps = arrivals[0][0]
        step_in_order(device)
    device.assert_nothing_is_left()


@given(sizes=st.lists(SIZES, min_size=1, max_size=25), limits=LIMITS, is_cached=st.booleans())
@settings(max_examples=60, deadline=None)
def test_only_those_ahead_make_a_request_wait(sizes: list, limits: dict[str, float], is_cached: bool) -> None:
    """The first in order computes a token in every step, so the wait is bounded by the work ahead, whatever comes after."""
    device = FakeDevice(ONE_GROUP, 40, enable_prefix_cache=is_cached, **limits)
    for size in sizes:
        device.add(*size)
    while (unfinished := [r for r in device.requests.values() if r.status is not RequestStatus.FINISHED]) != []:
        first = min(unfinished, key=key)
        batch = device.step()
        assert batch is not None
        assert first in [item.request for item in batch.scheduled]
        assert first.num_preemptions == 0 or first is not device.requests["r0"]


def test_a_flood_of_short_ones_does_not_starve_a_long_one() -> None:
    device = FakeDevice(ONE_GROUP, 40, max_num_batched_tokens=16, max_num_seqs=4)
    for _ in range(4):
        device.add(8, 8)
    device.step()
    long = device.add(120, 4)
    assert long is not None
    while long.status is not RequestStatus.FINISHED:
        device.add(8, 8)
        device.step()
        assert device.num_steps < 40
    # Those that came after it waited until it was through its prompt.
    assert long.num_preemptions == 0
    device.run()


def test_a_long_prompt_lets_the_streams_go_on_in_every_step() -> None:
    device = FakeDevice(ONE_GROUP, 200, max_num_batched_tokens=32)
    streams = [device.add(4, 60) for _ in range(6)]
    device.step()
    long = device.add(400, 4)
    assert long is not None
    while long.num_computed_tokens < 400:
        before = [len(stream.output_token_ids) for stream in streams if stream]
        device.step()
        assert [len(stream.output_token_ids) for stream in streams if stream] == [count + 1 for count in before]
    device.run()


class SchedulerMachine(RuleBasedStateMachine):
    """Requests of all sizes come, run, are preempted and go away, on a pool that holds few of them."""

    GEOMETRY = ONE_GROUP
    NUM_BLOCKS = 12
    IS_CACHED = True

    def __init__(self) -> None:
        super().__init__()
        limits = {"max_num_batched_tokens": 16, "max_num_seqs": 5, "kv_watermark": 0.1}
        self.device = FakeDevice(self.GEOMETRY, self.NUM_BLOCKS, enable_prefix_cache=self.IS_CACHED, **limits)

    @rule(size=SIZES, priority=st.integers(-1, 1))
    def add(self, size: tuple[int, int], priority: int) -> None:
        self.device.add(*size, priority=priority)

    @rule(num_steps=st.integers(1, 5))
    def step(self, num_steps: int) -> None:
        for _ in range(num_steps):
            step_in_order(self.device)

    @precondition(lambda self: self.device.requests)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        self.device.abort(data.draw(st.sampled_from(sorted(self.device.requests))))

    @invariant()
    def every_block_is_somewhere(self) -> None:
        kv = self.device.manager
        kv.check_integrity()
        assert kv.num_free_blocks + kv.num_used_blocks + kv.num_cached_blocks == self.NUM_BLOCKS
        assert max(self.device.num_ends.values(), default=0) <= 1

    def teardown(self) -> None:
        self.device.run()


class HybridSchedulerMachine(SchedulerMachine):
    """The same with windows."""

    GEOMETRY = HYBRID
    NUM_BLOCKS = 30


class UncachedSchedulerMachine(SchedulerMachine):
    """The same without a prefix cache."""

    IS_CACHED = False


TestSchedulerMachine = SchedulerMachine.TestCase
TestHybridSchedulerMachine = HybridSchedulerMachine.TestCase
TestUncachedSchedulerMachine = UncachedSchedulerMachine.TestCase
for case in (TestSchedulerMachine, TestHybridSchedulerMachine, TestUncachedSchedulerMachine):
    case.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
del case  # or pytest would find the last one twice


@pytest.mark.parametrize("geometry", [ONE_GROUP, HYBRID], ids=["one-group", "hybrid"])
def test_three_thousand_requests_under_pressure(geometry: KVGeometry) -> None:
    rng = random.Random(3)
    device = FakeDevice(geometry, 30, seed=3, max_num_batched_tokens=32, max_num_seqs=8, kv_watermark=0.0)
    for _ in range(3000):
        device.add(rng.randrange(1, 30), rng.randrange(1, 20), priority=rng.randrange(2))
        if rng.random() < 0.1:
            device.abort(f"r{rng.randrange(len(device.requests))}")
        for _ in range(rng.randrange(4)):
            device.step()
    device.run()
    assert device.scheduler.num_preemptions > 100
