"""The one timer of a sequence batcher: idle sequences and timeouts of those that wait for a slot."""

import threading
from collections.abc import Callable, Sequence
from math import inf

from nextact_server.inference.clock import Clock
from nextact_server.inference.scheduling.sequence_table import Refusal

__all__ = ["ExpiryTimer"]


class ExpiryTimer:
    """A thread that sleeps until the earliest moment it knows of. Requests that move it later do not wake it.

    Args:
        name: of its thread.
        lock: the scheduler's.
        clock: where time comes from.
        refuse: answers requests; called without the lock.
    """

    def __init__(
        self,
        name: str,
        lock: threading.Lock,
        clock: Clock,
        refuse: Callable[[Sequence[Refusal]], None],
    ) -> None:
        self._clock = clock
        self._refuse = refuse
        self._moved = threading.Condition(lock)
        self.until = inf
        """The earliest moment at which something may be due. The lock guards it."""
        self._stopped = False
        self._name = name
        self._thread: threading.Thread | None = None

    def start(self, expire: Callable[[float], tuple[list[Refusal], float]]) -> None:
        """Begin to call `expire`, with the lock held, for what to refuse and when to ask again."""
        self._thread = threading.Thread(target=self._work, args=(expire,), name=self._name, daemon=True)
        self._thread.start()

    def at(self, moment: float) -> None:
        """Ask no later than at that moment. The caller holds the lock."""
        if moment < self.until:
            self.until = moment
            self._moved.notify()

    def stop(self) -> None:
        """End the thread."""
        with self._moved:
            self._stopped = True
            self._moved.notify()
        if self._thread is not None:
            self._thread.join()

    def _work(self, expire: Callable[[float], tuple[list[Refusal], float]]) -> None:
        while True:
            with self._moved:
                if self._stopped:
                    return
                refused, self.until = expire(self._clock.monotonic())
                if not refused:
                    self._clock.wait(self._moved, None if self.until == inf else self.until)
            self._refuse(refused)
