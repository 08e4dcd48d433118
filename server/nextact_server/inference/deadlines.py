"""The deadlines of what waits, kept by number so that they hold nothing alive."""

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush

__all__ = ["Deadlines"]

_SPARE = 64


class Deadlines:
    """Moments by number, earliest first. Not thread-safe: the batcher's lock guards it.

    Numbers that no longer wait are dropped when they come to the top, and all at once when they outweigh the others,
    so that far deadlines of quickly answered items do not pile up.
    """

    def __init__(self, waits: Callable[[int], bool]) -> None:
        self._waits = waits
        self._heap: list[tuple[float, int]] = []
        self._sweep_at = _SPARE

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, moment: float, number: int) -> None:
        """Keep the deadline of a number that waits."""
        heappush(self._heap, (moment, number))
        if len(self._heap) > self._sweep_at:
            self._heap = [entry for entry in self._heap if self._waits(entry[1])]
            heapify(self._heap)
            self._sweep_at = _SPARE + 2 * len(self._heap)

    def earliest(self) -> float | None:
        """Return the first deadline of all that wait."""
        heap = self._heap
        while heap and not self._waits(heap[0][1]):
            heappop(heap)
        return heap[0][0] if heap else None

    def pop_due(self, now: float) -> Iterator[int]:
        """Drop and yield the numbers whose deadline is not after `now`; some of them may not wait any more."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            yield heappop(heap)[1]
