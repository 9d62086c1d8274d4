"""Requests that an engine died of. No torch.

When an engine dies, any of its open requests may be the reason. One that was there twice, alone or as the only one that
had been there before, is taken to be it, and is refused from then on. Where several were there both times, they run one
at a time until one ends well, or the engine dies of the only one left. Requests are known by what they ask for, not by
their id: it is the client's retry that would kill the next engine.
"""

import hashlib
import time
from collections.abc import Callable, Iterable

import msgspec

from engine.errors import EngineUnavailableError, RequestRefusedError
from engine.request import Request

FORGET_AFTER_S = 3600.0
MAX_NUM_RECORDS = 4096


class Record(msgspec.Struct):
    """What is known against a request."""

    last_s: float
    """When an engine died of it, or beside it, last."""
    num_deaths: int = 0
    is_guilty: bool = False


class Suspects:
    """The requests that were open when an engine died.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._records: dict[bytes, Record] = {}

    def __bool__(self) -> bool:
        return bool(self._records)

    def engine_died(self, requests: Iterable[Request]) -> None:
        """These were open."""
        now_s = self._clock()
        names = {fingerprint(request) for request in requests}
        known = {name: self._records[name].num_deaths for name in names if name in self._records}
        most = [name for name, number in known.items() if number == max(known.values())]
        for name in names:
            record = self._records.pop(name, Record(now_s))  # popped: the dict is in the order of the last deaths
            record.last_s, record.num_deaths = now_s, record.num_deaths + 1
            record.is_guilty = record.is_guilty or most == [name]
            self._records[name] = record
        for name in list(self._records)[:-MAX_NUM_RECORDS]:
            del self._records[name]

    def ended_well(self, request: Request) -> None:
        """It was not this one: it has run to its end."""
        if self:
            self._records.pop(fingerprint(request), None)

    def check(self, request: Request, others: Iterable[Request]) -> None:
        """Whether `request` may run beside `others`.

        Raises:
            RequestRefusedError: the engine died of it twice.
            EngineUnavailableError: it was there twice, and so was one of the others.
        """
        if not self or (record := self._find(request)) is None:
            return
        if record.is_guilty:
            minutes = round(FORGET_AFTER_S / 60)
            raise RequestRefusedError(
                f"the engine died twice of a request like this one: it is not run again for {minutes} minutes",
                code="engine_killed",
                param="prompt",
            )
        if record.num_deaths > 1 and any(self._is_twice(other) for other in others):
            message = "the engine died twice beside this request and others: they run one at a time; try again"
            raise EngineUnavailableError(message, retry_after_s=5.0)

    def _is_twice(self, request: Request) -> bool:
        record = self._find(request)
        return record is not None and record.num_deaths > 1

    def _find(self, request: Request) -> Record | None:
        name = fingerprint(request)
        record = self._records.get(name)
        if record is not None and self._clock() - record.last_s > FORGET_AFTER_S:
            del self._records[name]
            return None
        return record


def fingerprint(request: Request) -> bytes:
    """A hash of what a request asks for."""
    content = msgspec.msgpack.encode((request.prompt_token_ids, request.sampling_params))
    return hashlib.blake2b(content, digest_size=16).digest()
