"""Requests that wait for their turn, in order of priority and arrival. No torch."""

import heapq
import itertools
from collections.abc import Collection

from engine.request import Request

QueueKey = tuple[int, float, int]


class WaitingQueue:
    """A priority queue from which any request can be removed.

    A request keeps its place in the order when it comes back after preemption: it goes ahead of all that arrived later.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[QueueKey, str]] = []
        self._requests: dict[str, Request] = {}
        self._arrival_numbers: dict[str, int] = {}
        self._counter = itertools.count()
        self.num_tokens = 0

    def __len__(self) -> int:
        return len(self._requests)

    def key(self, request: Request) -> QueueKey:
        """What the order goes by: priority, arrival time, and the order in which they were first pushed."""
        number = self._arrival_numbers.setdefault(request.request_id, next(self._counter))
        return (request.priority, request.arrival_time_s, number)

    def push(self, request: Request) -> None:
        """Add a request, new or preempted."""
        self._requests[request.request_id] = request
        self.num_tokens += request.num_tokens
        heapq.heappush(self._heap, (self.key(request), request.request_id))

    def peek(self, among: Collection[str] | None = None) -> Request | None:
        """The first in order, or None when nobody waits.

        Args:
            among: only these count; None: all.
        """
        if among is not None:
            return min((self._requests[name] for name in among if name in self._requests), key=self.key, default=None)
        while self._heap and self._heap[0][1] not in self._requests:
            heapq.heappop(self._heap)
        return self._requests[self._heap[0][1]] if self._heap else None

    def remove(self, request_id: str) -> Request | None:
        """Take a request out, first in order or not; None when it does not wait."""
        request = self._requests.pop(request_id, None)
        if request is not None:
            self.num_tokens -= request.num_tokens
        return request

    def find(self, request_id: str) -> Request | None:
        """A request that waits here."""
        return self._requests.get(request_id)

    def request_ids(self) -> list[str]:
        """All that wait, in no order."""
        return list(self._requests)

    def forget(self, request_id: str) -> None:
        """A finished request needs its place in the order no more."""
        self._arrival_numbers.pop(request_id, None)
