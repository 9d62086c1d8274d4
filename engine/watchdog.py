"""Sees that an engine has stopped to step while it has work. No torch."""

import asyncio
from collections.abc import Callable

TICKS = 20
LONGEST_TICK_S = 1.0


class Watchdog:
    """Counts the time in which nothing happened.

    It counts ticks of its own, not a clock: a server that was itself stopped for a while has no reason to blame its engine.

    Args:
        timeout_s: so long without a step, while there is work, and the engine hangs.
        has_work: whether it has.
    """

    def __init__(self, timeout_s: float, has_work: Callable[[], bool]) -> None:
        self._timeout_s = timeout_s
        self._has_work = has_work
        self._has_stepped = True

    def step(self) -> None:
        """The engine has done something."""
        self._has_stepped = True

    async def wait_for_hang(self) -> None:
        """Return when the engine hangs."""
        tick_s = min(LONGEST_TICK_S, self._timeout_s / TICKS)
        quiet_s = 0.0
        while quiet_s < self._timeout_s:
            await asyncio.sleep(tick_s)
            quiet_s = 0.0 if self._has_stepped or not self._has_work() else quiet_s + tick_s
            self._has_stepped = False
