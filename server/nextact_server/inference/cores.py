"""A budget of cores: decoders and model runtimes share the machine's cores instead of fighting for them."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["CoreBudget"]


class CoreBudget:
    """A first-come-first-served semaphore that counts cores.

    A model that computes with all cores and the threads that decode its next images take turns: together they never
    keep more than `cores` threads busy, and no core is set aside for either. Being served in order of arrival, neither
    can starve the other.
    """

    def __init__(self, cores: int) -> None:
        if cores < 1:
            raise ValueError(f"a budget needs at least one core, not {cores}")
        self.cores = cores
        self._free = cores
        self._line: deque[tuple[int, threading.Event]] = deque()
        self._lock = threading.Lock()

    @contextmanager
    def use(self, cores: int = 1) -> Iterator[None]:
        """Hold so many cores (never more than there are) while the block runs, waiting for them first."""
        wanted = min(cores, self.cores)
        self._take(wanted)
        try:
            yield
        finally:
            self._give(wanted)

    def _take(self, wanted: int) -> None:
        with self._lock:
            if not self._line and wanted <= self._free:
                self._free -= wanted
                return
            turn = threading.Event()
            self._line.append((wanted, turn))
        turn.wait()

    def _give(self, cores: int) -> None:
        with self._lock:
            self._free += cores
            while self._line and self._line[0][0] <= self._free:
                wanted, turn = self._line.popleft()
                self._free -= wanted
                turn.set()
