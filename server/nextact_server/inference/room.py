"""The line of those who wait for room in a queue."""

from collections import deque
from concurrent.futures import Future

__all__ = ["RoomLine"]


class RoomLine:
    """Futures that are done when room for their cost is free, in the order they asked. The batcher's lock guards it."""

    def __init__(self) -> None:
        self._line: deque[tuple[int, Future[None]]] = deque()

    def __len__(self) -> int:
        return len(self._line)

    def join(self, cost: int) -> Future[None]:
        """Stand in the line; cancelling the future leaves it."""
        future: Future[None] = Future()
        self._line.append((cost, future))
        return future

    def admit(self, free: int) -> list[Future[None]]:
        """Take from the head those who together fit into `free`; their futures are to be completed by the caller."""
        admitted: list[Future[None]] = []
        line = self._line
        while line and (line[0][1].cancelled() or line[0][0] <= free):
            cost, future = line.popleft()
            if not future.cancelled():
                free -= cost
                admitted.append(future)
        return admitted

    def clear(self) -> list[Future[None]]:
        """Take everyone."""
        futures = [future for _, future in self._line]
        self._line.clear()
        return futures
