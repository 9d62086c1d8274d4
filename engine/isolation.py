"""After a step that failed: at whose request? No torch.

Its requests are computed again in two halves, one after the other and apart from all others. A half that fails is halved
again, until one request fails alone: that one ends with an error, and nobody else does.
"""

from collections import deque
from collections.abc import Callable, Collection

NUM_PROVING_TOKENS = 2
"""A request that gives so many more is past what failed: the first comes of its prefill, the second of a decode."""


class Isolation:
    """The groups that are still to be tried; the first one runs."""

    def __init__(self) -> None:
        self._groups: deque[dict[str, int]] = deque()

    def __bool__(self) -> bool:
        return bool(self._groups)

    def split(self, failed: dict[str, int]) -> None:
        """Try these in two halves, before all that wait to be tried.

        Args:
            failed: at least two request ids, with the output tokens that each has.
        """
        self.drop(failed)
        names = list(failed)
        halves = names[: len(names) // 2], names[len(names) // 2 :]
        self._groups.extendleft({name: failed[name] for name in half} for half in reversed(halves))

    def drop(self, names: Collection[str]) -> None:
        """These need no trial any more."""
        left = [{name: number for name, number in group.items() if name not in names} for group in self._groups]
        self._groups = deque(group for group in left if group)

    def group(self, num_output_tokens: Callable[[str], int | None]) -> frozenset[str] | None:
        """Who may run now; None: everybody.

        Args:
            num_output_tokens: of a request; None where it has ended.
        """
        while self._groups:
            group = self._groups[0]
            for name, number in list(group.items()):
                now = num_output_tokens(name)
                if now is None or now >= number + NUM_PROVING_TOKENS:
                    del group[name]
            if group:
                return frozenset(group)
            self._groups.popleft()
        return None
