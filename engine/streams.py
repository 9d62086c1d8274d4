"""The open requests of an engine, as its server sees them: who may come in, their deltas, and their time. No torch."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

import msgspec

from configs.scheduler import SchedulerSettings
from engine.errors import QueueFullError, RequestRefusedError
from engine.request import FinishReason, Request, TokenDelta
from engine.retry_after import RetryAfter

UNBOUNDED = 2**62


class DeltaStream:
    """The deltas of one request, as an asynchronous iterator that ends after the one with the finish reason.

    Args:
        request_id: whose.
        on_close: called when the reader closes the stream.
        max_num_unread_tokens: the reader may fall behind by so many; then the stream ends.
    """

    def __init__(
        self, request_id: str, on_close: Callable[[str], None], max_num_unread_tokens: int = UNBOUNDED
    ) -> None:
        self._request_id = request_id
        self._on_close = on_close
        self._max_num_unread_tokens = max_num_unread_tokens
        self._num_unread_tokens = 0
        self._queue: asyncio.Queue[TokenDelta] = asyncio.Queue()
        self._is_finished = False

    def __aiter__(self) -> "DeltaStream":
        return self

    async def __anext__(self) -> TokenDelta:
        if self._is_finished:
            raise StopAsyncIteration
        delta = await self._queue.get()
        self._num_unread_tokens -= len(delta.token_ids)
        self._is_finished = delta.finish_reason is not None
        return delta

    def put(self, delta: TokenDelta) -> None:
        """Add a delta; where too many are unread the request ends here."""
        self._num_unread_tokens += len(delta.token_ids)
        if self._num_unread_tokens > self._max_num_unread_tokens and delta.finish_reason is None:
            message = f"{self._max_num_unread_tokens} tokens were not read, which is the limit: the request has ended"
            self.cut(message, code="slow_reader")
        else:
            self._queue.put_nowait(delta)

    def cut(self, message: str, *, code: str) -> None:
        """End the request before its time: what is unread stays, and the last delta says why."""
        self._queue.put_nowait(
            TokenDelta(self._request_id, finish_reason=FinishReason.ABORT, error=message, error_code=code)
        )
        self._on_close(self._request_id)

    def close(self) -> None:
        """Read no further: where the request still runs, it is aborted. Safe to call twice."""
        self._is_finished = True
        self._on_close(self._request_id)


class OpenStream(msgspec.Struct):
    """One that has not ended."""

    request: Request
    stream: DeltaStream
    timer: asyncio.TimerHandle | None
    """Ends it when its time is up."""
    is_waiting: bool = True
    """Nothing has come of it yet."""


class OpenStreams:
    """The streams that have not ended, and the limits of how many there may be.

    Args:
        settings: the limits.
        on_close: called with the id of a request that ended here, and so has to end in the engine.
    """

    def __init__(self, settings: SchedulerSettings, on_close: Callable[[str], None]) -> None:
        self._settings = settings
        self._on_close = on_close
        self._open: dict[str, OpenStream] = {}
        self._num_waiting_tokens = 0
        self._retry_after = RetryAfter()

    def __len__(self) -> int:
        return len(self._open)

    @property
    def requests(self) -> dict[str, Request]:
        """Those that are open, by id."""
        return {name: one.request for name, one in self._open.items()}

    def check_room(self, prompts: Sequence[Sequence[int]], num_choices: int) -> None:
        """Whether these prompts can come in together, each so many times.

        Raises:
            RequestRefusedError: not even if there were no others.
            QueueFullError: not now.
        """
        limit, num_requests = self._max_num_open, len(prompts) * num_choices
        if num_requests > limit:
            message = f"{limit} choices run and wait at most, got {num_requests} (n for each prompt); ask for fewer"
            raise RequestRefusedError(message, code="invalid_value", param="n")
        now_s = time.monotonic()
        num_kept = self._retry_after.num_kept(now_s, limit)
        is_promised = self._retry_after.claim(_name(prompts), now_s)
        num_missing = len(self._open) + num_requests - limit + (0 if is_promised else num_kept)
        if num_missing > 0:
            places = num_missing if is_promised else num_requests
            self._refuse(f"{self._settings.max_num_waiting} requests wait already", prompts, places, is_promised)
        num_tokens, most = sum(map(len, prompts)) * num_choices, self._settings.max_num_waiting_tokens
        if self._num_waiting_tokens and self._num_waiting_tokens + num_tokens > most:
            reason = f"{self._num_waiting_tokens} prompt tokens of {most} wait already, too many for {num_tokens} more"
            self._refuse(reason, prompts, num_requests, is_promised)

    def add(self, request: Request) -> DeltaStream:
        """Open a stream; it ends by itself when the request's time is up.

        Raises:
            QueueFullError: there is no place; `check_room` tells that for several at once, and keeps promised places.
        """
        if len(self._open) >= self._max_num_open:
            self._refuse(
                f"{self._settings.max_num_waiting} requests wait already", [request.prompt_token_ids], 1, False
            )
        stream = DeltaStream(request.request_id, self._close, self._settings.max_num_unread_tokens)
        timer = None
        if request.timeout_s is not None:
            timer = asyncio.get_running_loop().call_later(request.timeout_s, self._expire, stream, request.timeout_s)
        self._open[request.request_id] = OpenStream(request, stream, timer)
        self._num_waiting_tokens += request.num_prompt_tokens
        return stream

    def put(self, delta: TokenDelta) -> Request | None:
        """Hand a delta to its stream; the request where it ends with it."""
        one = self._open.get(delta.request_id)
        if one is None:
            return None
        if delta.finish_reason is not None:
            self._remove(delta.request_id)
        elif delta.token_ids:
            self._begin(one)
        one.stream.put(delta)
        return one.request if delta.finish_reason is not None else None

    def _begin(self, one: OpenStream) -> None:
        if one.is_waiting:
            one.is_waiting = False
            self._num_waiting_tokens -= one.request.num_prompt_tokens

    def _remove(self, request_id: str) -> bool:
        one = self._open.pop(request_id, None)
        if one is None:
            return False
        self._begin(one)
        if one.timer is not None:
            one.timer.cancel()
        self._retry_after.ended(time.monotonic())
        return True

    def _close(self, request_id: str) -> None:
        """Nobody reads this stream any more."""
        if self._remove(request_id):
            self._on_close(request_id)

    def _expire(self, stream: DeltaStream, timeout_s: float) -> None:
        message = f"the request was not complete after {timeout_s:g} s, which was its limit (timeout)"
        stream.cut(message, code="deadline_exceeded")

    @property
    def _max_num_open(self) -> int:
        return self._settings.max_num_seqs + self._settings.max_num_waiting

    def _refuse(self, reason: str, prompts: Sequence[Sequence[int]], num_places: int, is_promised: bool) -> NoReturn:
        promise = self._retry_after.promise_next if is_promised else self._retry_after.promise
        retry_after_s = promise(_name(prompts), time.monotonic(), num_places)
        raise QueueFullError(f"{reason}, which is the limit; try again later", retry_after_s=retry_after_s)


def _name(prompts: Sequence[Sequence[int]]) -> int:
    """What tells a request that comes back from a new one."""
    return hash(tuple(map(tuple, prompts)))
