"""When it is worth to try again: places in a full queue, promised one after the other and kept. No torch.

If everybody who is refused came back when the next place is free, all but one would come for nothing. So each is told
another time: the places that come free at the measured rate are promised in the order of the refusals. Places are
kept for those to whom they are promised, who are known by asking for the same again.
"""

import bisect
import itertools
import math
from collections import deque
from collections.abc import Hashable

NUM_MEASURED = 64
FIRST_GUESS_S = 1.0
"""Until something has ended, a place is taken to come free every second."""
SLACK = 1.15
"""Places are promised a little more slowly than they come free."""
LONGEST_S = 300.0
"""Nobody is told to wait longer: the load may have gone by then. Whoever is told this much comes back with many others."""
SHARE_WEIGHT = 0.05
"""How much one promise that is taken up, or not, counts in the share of those that are."""
SMALLEST_SHARE = 0.05
KEPT_S = 2.0
"""How late one may come."""
EARLY_S = 0.5
"""And how early."""
NUM_FORGOTTEN = 16
"""Promises that are looked at, whether they are too old, each time that somebody asks."""


class RetryAfter:
    """Counts how often places come free, and promises the next ones. All times are of one clock, in seconds."""

    def __init__(self) -> None:
        self._ends_s: deque[float] = deque(maxlen=NUM_MEASURED)
        self._promised_s = -math.inf
        self._front_s = -math.inf
        """The places promised last: of the line, and of those at its front who came as told and found none."""
        self._share = 1.0
        """Of those who were refused, how many come back: the others need no place in the line."""
        self._promises: dict[Hashable, float] = {}
        """Who was told to come, and when: in whole seconds, as the header says it. The earliest are first."""
        self._times_s: list[float] = []
        """When they come, in order."""

    def ended(self, now_s: float) -> None:
        """A request has ended: a place is free."""
        self._ends_s.append(now_s)

    def claim(self, name: Hashable, now_s: float) -> bool:
        """Whether a place is promised to `name` for now, or it is the first in the line; a yes is given once."""
        come_s = self._promises.get(name)
        if come_s is None or (now_s < come_s - EARLY_S and name != next(iter(self._promises))):
            return False
        self._forget(name, is_taken=now_s <= come_s + KEPT_S)
        return now_s <= come_s + KEPT_S

    def num_kept(self, now_s: float, num_places: int) -> int:
        """Places whose owners are expected before one that is taken now comes free again: a new request leaves them.

        Args:
            now_s: the time.
            num_places: that there are; so many have to come free until the last one does.
        """
        for name, come_s in list(itertools.islice(self._promises.items(), NUM_FORGOTTEN)):
            if come_s + KEPT_S < now_s:
                self._forget(name, is_taken=False)
        until_s = now_s + num_places * self._place_s(now_s)
        num_due = bisect.bisect_right(self._times_s, until_s) - bisect.bisect_left(self._times_s, now_s - KEPT_S)
        return math.ceil(self._share * num_due)

    def promise(self, name: Hashable, now_s: float, num_places: int = 1) -> float:
        """Seconds until so many places have come free that nobody else was promised.

        Args:
            name: whose they are then.
            now_s: the time.
            num_places: how many are needed.
        """
        place_s = self._share * SLACK * self._place_s(now_s)
        # Where places come more slowly than they were promised, the line is as long as those who stand in it need now.
        line_s = now_s + len(self._promises) * place_s
        free_s = max(self._promised_s, self._front_s, line_s) + num_places * place_s
        self._promised_s = min(free_s, now_s + LONGEST_S)
        told_s = self._promised_s - now_s
        if name not in self._promises:
            self._note(name, now_s + math.ceil(told_s))
        return told_s

    def promise_next(self, name: Hashable, now_s: float, num_places: int = 1) -> float:
        """The same for one who came as he was told, and found his place not free yet: he is before all others."""
        self._front_s = max(self._front_s, now_s) + SLACK * num_places * self._place_s(now_s)
        told_s = min(self._front_s - now_s, LONGEST_S)
        self._note(name, now_s + math.ceil(told_s))
        return told_s

    def _note(self, name: Hashable, come_s: float) -> None:
        self._promises[name] = come_s
        bisect.insort(self._times_s, come_s)

    def _forget(self, name: Hashable, *, is_taken: bool) -> None:
        come_s = self._promises.pop(name)
        del self._times_s[bisect.bisect_left(self._times_s, come_s)]
        self._share += SHARE_WEIGHT * (is_taken - self._share)
        self._share = max(self._share, SMALLEST_SHARE)

    def _place_s(self, now_s: float) -> float:
        """Seconds between two places, as measured; a pause that is longer already counts."""
        if len(self._ends_s) < 2:
            return FIRST_GUESS_S / SLACK
        measured_s = (self._ends_s[-1] - self._ends_s[0]) / (len(self._ends_s) - 1)
        return max(measured_s, (now_s - self._ends_s[0]) / len(self._ends_s))
