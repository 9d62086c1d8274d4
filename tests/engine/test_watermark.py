"""Who starts when blocks are few (fake device)."""

import pytest

from engine.request import RequestStatus
from kvcache.geometry import KVGeometry
from tests.engine.fake_device import HYBRID, ONE_GROUP, FakeDevice


def test_a_newcomer_leaves_the_watermark_to_those_that_run() -> None:
    device = FakeDevice(ONE_GROUP, 20, enable_prefix_cache=False, kv_watermark=0.25)
    first = device.add(40, 20)
    second = device.add(20, 4)
    third = device.add(4, 4)
    assert first and second and third
    device.step()
    # 10 blocks are taken. Of the 10 others 5 must be left: the second would leave as many, the third one less.
    assert (first.status, second.status, third.status) == ("running", "running", "waiting")
    device.run()
    assert device.scheduler.num_preemptions == 0


def test_without_it_the_newcomer_is_preempted_at_once() -> None:
    device = FakeDevice(ONE_GROUP, 15, enable_prefix_cache=False, kv_watermark=0.0)
    device.add(40, 20)
    device.add(20, 4)
    device.step()
    assert device.scheduler.num_running == 2
    device.step()
    assert device.scheduler.num_preemptions == 1
    device.run()


def test_a_request_that_is_alone_may_take_all() -> None:
    device = FakeDevice(ONE_GROUP, 20, kv_watermark=0.5)
    request = device.add(76, 4)
    assert request is not None
    device.step()
    assert request.status is RequestStatus.RUNNING
    device.run()


@pytest.mark.parametrize("geometry", [ONE_GROUP, HYBRID], ids=["one-group", "hybrid"])
def test_a_long_prompt_starts_only_where_all_of_it_fits(geometry: KVGeometry) -> None:
    """Its first chunk would fit; half of its prompt computed and then preempted would be for nothing."""
    num_blocks = geometry.num_blocks(102, num_scheduled_tokens=8)
    device = FakeDevice(geometry, num_blocks, enable_prefix_cache=False, max_num_batched_tokens=8, kv_watermark=0.0)
    running = device.add(4, 20)
    device.step()
    long = device.add(100, 2)
    assert running and long
    while running.status is not RequestStatus.FINISHED:
        assert long.status is RequestStatus.WAITING
        device.step()
    device.run()
    assert device.scheduler.num_preemptions == 0
