"""What requests took, each and all together, and the closed loop that sends them."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from itertools import pairwise
from typing import Self

import msgspec


class RequestFailedError(Exception):
    """A request that did not end as it should; the message says how."""


class RequestTimes(msgspec.Struct):
    """What one request took.

    Attributes:
        ttft_s: from when it was due to the first token.
        itl_s: from each piece of the answer to the next.
        e2e_s: from when it was due to the end.
        tpot_s: mean time of a token after the first; None where there is only one.
    """

    ttft_s: float
    itl_s: list[float]
    e2e_s: float
    tpot_s: float | None
    prompt_tokens: int
    output_tokens: int

    @classmethod
    def of(
        cls, due_s: float, arrivals_s: list[float], ended_s: float, *, prompt_tokens: int, output_tokens: int
    ) -> Self:
        """From the times at which pieces of the answer came, of which there is one at least."""
        decode_s = arrivals_s[-1] - arrivals_s[0]
        return cls(
            ttft_s=arrivals_s[0] - due_s,
            itl_s=[later - earlier for earlier, later in pairwise(arrivals_s)],
            e2e_s=ended_s - due_s,
            tpot_s=decode_s / (output_tokens - 1) if output_tokens > 1 else None,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
        )

    def meets(self, objectives_s: dict[str, float]) -> bool:
        """Whether it stayed within every objective: ttft, itl (its longest gap), tpot and e2e."""
        longest_gap_s = max(self.itl_s, default=0.0)
        taken = {"ttft": self.ttft_s, "itl": longest_gap_s, "tpot": self.tpot_s or 0.0, "e2e": self.e2e_s}
        return all(taken[name] <= limit_s for name, limit_s in objectives_s.items())


class LevelTimes(msgspec.Struct):
    """All requests at one concurrency, or at one rate.

    Attributes:
        concurrency: requests kept running at once; None in an open loop.
        request_rate: requests a second; None in a closed loop.
        most_at_once: requests that were under way at the same time.
        wall_s: from the first request's start to the last one's end.
        errors: message -> requests that ended with it.
    """

    concurrency: int | None = None
    request_rate: float | None = None
    most_at_once: int = 0
    wall_s: float = 0.0
    completed: list[RequestTimes] = []
    errors: Counter[str] = msgspec.field(default_factory=Counter)
    _num_running: int = 0

    @property
    def num_completed(self) -> int:
        """Requests that ended well."""
        return len(self.completed)

    @property
    def title(self) -> str:
        """`8 at once` or `2.5 a second`."""
        return f"{self.concurrency} at once" if self.request_rate is None else f"{self.request_rate:g} a second"

    async def add(self, request: Awaitable[RequestTimes]) -> None:
        """Wait for one request and book how it ended."""
        self._num_running += 1
        self.most_at_once = max(self.most_at_once, self._num_running)
        try:
            self.completed.append(await request)
        except RequestFailedError as error:
            self.errors[str(error)] += 1
        finally:
            self._num_running -= 1


Send = Callable[[], Awaitable[RequestTimes]]
"""Sends one request and waits for its end."""


async def closed_loop(sends: Iterable[Send], concurrency: int, on_end: Callable[[], None]) -> LevelTimes:
    """Send all requests, `concurrency` at a time: as soon as one ends, the next one is sent.

    Args:
        sends: a function a request.
        concurrency: requests kept running.
        on_end: called after each request.
    """
    level = LevelTimes(concurrency=concurrency)
    waiting = list(sends)
    pending = iter(waiting)

    async def work() -> None:
        for send in pending:
            await level.add(send())
            on_end()

    started_s = time.perf_counter()
    async with asyncio.TaskGroup() as workers:
        for _ in range(min(concurrency, len(waiting))):
            workers.create_task(work())
    level.wall_s = time.perf_counter() - started_s
    return level
