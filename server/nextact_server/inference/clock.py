"""The clock that batching runs on: passed in, so that a test moves time by hand and nothing has to sleep."""

import threading
import time
from typing import Protocol

__all__ = ["Clock", "ManualClock", "MonotonicClock"]


class Clock(Protocol):
    """Time in seconds that never goes back, and a wait that ends by it."""

    def monotonic(self) -> float:
        """Return the present moment, in seconds from an arbitrary start."""

    def wait(self, condition: threading.Condition, until: float | None) -> None:
        """Wait on `condition`, which the caller holds, for a notify or until the moment `until` (None: a notify only).

        It may return early, so the caller looks again at what it waited for. The moment is absolute: a span counted
        from a moment read earlier would lose whatever happened in between.
        """


class MonotonicClock:
    """The system's monotonic clock."""

    def monotonic(self) -> float:
        """Return `time.monotonic()`."""
        return time.monotonic()

    def wait(self, condition: threading.Condition, until: float | None) -> None:
        """Wait for a notify or until `until`."""
        if until is None:
            condition.wait()
            return
        left = until - time.monotonic()
        if left > 0:
            condition.wait(min(left, threading.TIMEOUT_MAX))


class ManualClock:
    """A clock that stands still until it is moved: for tests and simulations."""

    def __init__(self, now: float = 0.0) -> None:
        self._now = now
        self._changed = threading.Condition()
        self._parked: list[tuple[threading.Condition, float | None]] = []

    def monotonic(self) -> float:
        """Return the moment the clock was last moved to."""
        return self._now

    def wait(self, condition: threading.Condition, until: float | None) -> None:
        """Wait for a notify or until the clock is moved, to whichever moment; return at once if `until` is past."""
        entry = (condition, until)
        with self._changed:
            if until is not None and until <= self._now:
                return
            self._parked.append(entry)
            self._changed.notify_all()
        condition.wait()
        with self._changed:
            if entry in self._parked:
                self._parked.remove(entry)

    def advance(self, seconds: float) -> None:
        """Move the clock on and wake everyone who waits on it."""
        with self._changed:
            self._now += seconds
            parked, self._parked = self._parked, []
        for condition, _ in parked:
            with condition:
                condition.notify_all()

    def wait_for_parked(self, until: float | None, timeout: float = 10.0) -> None:
        """Block until some thread that has seen the present moment waits for the moment `until`.

        Raises:
            TimeoutError: no thread did within `timeout` real seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: any(moment == until for _, moment in self._parked), timeout):
                raise TimeoutError(
                    f"no thread waits until {until}; waits now: {[moment for _, moment in self._parked]}"
                )
