"""How much may be on its way to a model at once, in items and in bytes."""

import threading
from dataclasses import dataclass

from nextact_server.inference.batcher import QueueFull

__all__ = ["Admission", "AdmissionLimits"]

TYPICAL_RATE = 200.0
"""Items a second that a guess at when there is room again is made with."""


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """Most items, and most bytes of them, that are admitted and not answered yet."""

    items: int = 4096
    size_bytes: int = 256 * 1024 * 1024


class Admission:
    """Counts what is under way; what would pass a bound is refused at once."""

    def __init__(self, name: str, limits: AdmissionLimits) -> None:
        self._name = name
        self._limits = limits
        self._items = 0
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def items(self) -> int:
        """How many are under way."""
        return self._items

    def enter(self, size: int) -> QueueFull | None:
        """Admit an item of so many bytes, or return why not."""
        with self._lock:
            if self._items >= self._limits.items:
                return self._refusal(self._limits.items, self._items, 1)
            # One alone is admitted whatever its size, or a bound below the size limit would refuse it for ever.
            if self._items and self._bytes + size > self._limits.size_bytes:
                return self._refusal(self._limits.size_bytes, self._bytes, size)
            self._items += 1
            self._bytes += size
        return None

    def leave_after(self, size: int, answered: object) -> None:  # noqa: ARG002
        """Note that an admitted item was answered: a callback for its future."""
        with self._lock:
            self._items -= 1
            self._bytes -= size

    def _refusal(self, limit: int, queued: int, cost: int) -> QueueFull:
        return QueueFull(self._name, limit, queued, cost, max(0.05, self._items / 2 / TYPICAL_RATE))
