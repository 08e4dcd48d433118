"""What a batcher tells of itself: once per batch, never once per item of one."""

import logging
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

__all__ = ["BatchObserver", "BatchReason", "BatchReport", "GuardedObserver", "SilentObserver"]

logger = logging.getLogger(__name__)


class BatchReason(StrEnum):
    """Why a batch left."""

    FULL = "full"
    """As much waited as one batch holds."""
    IDLE = "idle"
    """The worker was free and took what there was."""
    DELAY = "delay"
    """The window that opened at the first arrival was over."""
    DEADLINE = "deadline"
    """An item would not have lived to the end of the window."""
    PREFERRED = "preferred"
    """A size that the model prefers waited."""
    UNLIKE = "unlike"
    """The next in line cannot share a batch with it."""


@dataclass(frozen=True, slots=True)
class BatchReport:
    """One batch that was computed, or that broke off. Times are in seconds."""

    name: str
    reason: BatchReason
    items: int
    cost: int
    queue_s: float
    """Waiting time summed over the items."""
    oldest_queue_s: float
    """Waiting time of the item that waited longest."""
    compute_s: float
    failures: int
    """Items whose caller got an error."""
    runs: int
    """Calls of the model: 1, or more where a failing item had to be isolated."""
    crashed: bool


class BatchObserver(Protocol):
    """Receives reports, from several threads at once and without any lock held. Parts of a split item count singly."""

    def batch_done(self, report: BatchReport) -> None:
        """Take the report of a batch; its callers are answered right after."""

    def rejected(self, name: str, cost: int) -> None:
        """Note that a request of this cost found the queue full."""

    def expired(self, name: str, items: int) -> None:
        """Note that so many waiting items passed their deadline."""

    def cancelled(self, name: str, items: int) -> None:
        """Note that so many waiting items were cancelled by their callers."""


class SilentObserver:
    """An observer that keeps nothing."""

    def batch_done(self, report: BatchReport) -> None:
        """Ignore it."""

    def rejected(self, name: str, cost: int) -> None:
        """Ignore it."""

    def expired(self, name: str, items: int) -> None:
        """Ignore it."""

    def cancelled(self, name: str, items: int) -> None:
        """Ignore it."""


class GuardedObserver:
    """Passes everything on to another observer, and keeps whatever that raises from the batcher's threads."""

    def __init__(self, inner: BatchObserver) -> None:
        self._inner = inner

    def batch_done(self, report: BatchReport) -> None:
        """Pass it on."""
        try:
            self._inner.batch_done(report)
        except BaseException:
            self._log(report.name)

    def rejected(self, name: str, cost: int) -> None:
        """Pass it on."""
        try:
            self._inner.rejected(name, cost)
        except BaseException:
            self._log(name)

    def expired(self, name: str, items: int) -> None:
        """Pass it on."""
        try:
            self._inner.expired(name, items)
        except BaseException:
            self._log(name)

    def cancelled(self, name: str, items: int) -> None:
        """Pass it on."""
        try:
            self._inner.cancelled(name, items)
        except BaseException:
            self._log(name)

    def _log(self, name: str) -> None:
        logger.exception("observer of batcher %s failed", name)
