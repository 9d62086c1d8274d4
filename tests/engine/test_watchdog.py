"""A hang is told from idleness, from slow steps and from a server that was itself stopped."""

import asyncio
import time

import pytest

from engine.watchdog import Watchdog

pytestmark = pytest.mark.anyio


async def hangs_within(watchdog: Watchdog, seconds: float, *, steps: bool = False) -> bool:
    task = asyncio.create_task(watchdog.wait_for_hang())
    deadline_s = time.monotonic() + seconds
    while not task.done() and time.monotonic() < deadline_s:
        await asyncio.sleep(0.005)
        if steps:
            watchdog.step()
    task.cancel()
    return task.done() and not task.cancelled()


async def test_no_step_while_there_is_work_is_a_hang() -> None:
    assert await hangs_within(Watchdog(0.1, lambda: True), 5)


async def test_steps_and_idleness_are_none() -> None:
    assert not await hangs_within(Watchdog(0.4, lambda: True), 0.8, steps=True)
    assert not await hangs_within(Watchdog(0.1, lambda: False), 0.4)


async def test_time_in_which_the_server_stood_still_does_not_count() -> None:
    watchdog = Watchdog(0.4, lambda: True)
    task = asyncio.create_task(watchdog.wait_for_hang())
    await asyncio.sleep(0.05)
    time.sleep(0.6)  # the whole event loop stands still
    await asyncio.sleep(0.01)
    assert not task.done()
    task.cancel()
