"""Prometheus metrics under nextact's own names, and the observers through which the rooms feed them."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 16384)


class Batch(Protocol):
    """What a batcher reports of a batch (`inference.batch_observer.BatchReport`)."""

    @property
    def name(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def items(self) -> int: ...
    @property
    def cost(self) -> int: ...
    @property
    def oldest_queue_s(self) -> float: ...
    @property
    def compute_s(self) -> float: ...
    @property
    def failures(self) -> int: ...


class Metrics:
    """All metrics of a server in a registry of their own. Everything is counted per batch, nothing per event."""

    def __init__(self, statuses: Mapping[int, str]) -> None:
        """Make them; `statuses` names what may become of an event."""
        self._statuses = statuses
        self.registry = CollectorRegistry()
        of: dict[str, Any] = {"registry": self.registry}
        self._batches = Counter("nextact_batches", "Batches computed, by why they left.", ["model", "reason"], **of)
        self._batch_cost = Histogram(
            "nextact_batch_cost", "Size of batches in rows, tokens or images.", ["model"], buckets=SIZES, **of
        )
        self._batch_items = Counter("nextact_batch_items", "Items in computed batches.", ["model"], **of)
        self._queue = Histogram(
            "nextact_queue_seconds", "Wait of a batch's oldest item.", ["model"], buckets=SECONDS, **of
        )
        self._compute = Histogram("nextact_compute_seconds", "Computing a batch.", ["model"], buckets=SECONDS, **of)
        self._failures = Counter("nextact_item_failures", "Items whose caller got an error.", ["model"], **of)
        self._turned_away = Counter("nextact_turned_away", "Items that were not computed.", ["model", "why"], **of)
        self._lookups = Counter("nextact_content_cache_lookups", "Content lookups by outcome.", ["outcome"], **of)
        self._evictions = Counter("nextact_content_cache_evictions", "Vectors that left the content cache.", **of)
        self._cache_bytes = Gauge("nextact_content_cache_bytes", "Bytes held by the content cache.", **of)
        self._cache_entries = Gauge("nextact_content_cache_entries", "Vectors in the content cache.", **of)
        self._events = Counter("nextact_events", "Events by what became of them.", ["status"], **of)
        self.resident_users = Gauge("nextact_resident_users", "Users whose state is in memory.", **of)
        self.known_users = Gauge("nextact_known_users", "Users seen since the start.", **of)
        self.items = Gauge("nextact_items", "Items in the index.", **of)
        self.waiting_events = Gauge("nextact_waiting_events", "Events that wait for their step.", **of)

        self._of_batches = lru_cache(maxsize=1024)(self._batch_metrics)

    def batch_done(self, report: Batch) -> None:
        """A batch was computed."""
        left, cost, items, queue, compute = self._of_batches(report.name, str(report.reason))
        left.inc()
        cost.observe(report.cost)
        items.inc(report.items)
        queue.observe(report.oldest_queue_s)
        compute.observe(report.compute_s)
        if report.failures:
            self._failures.labels(report.name).inc(report.failures)

    def _batch_metrics(self, name: str, reason: str) -> tuple[Any, Any, Any, Any, Any]:
        """What a batch of a model that left for a reason is counted in: finding it costs more than counting."""
        return (
            self._batches.labels(name, reason),
            self._batch_cost.labels(name),
            self._batch_items.labels(name),
            self._queue.labels(name),
            self._compute.labels(name),
        )

    def rejected(self, name: str, cost: int) -> None:
        """A request of this cost found the queue full."""
        self._turned_away.labels(name, "rejected").inc(cost)

    def expired(self, name: str, items: int) -> None:
        """So many items passed their deadline."""
        self._turned_away.labels(name, "expired").inc(items)

    def cancelled(self, name: str, items: int) -> None:
        """So many items were taken back."""
        self._turned_away.labels(name, "cancelled").inc(items)

    def cache_lookups(self, hits: int, misses: int, joined: int) -> None:
        """So many contents were found, were not, or are being computed for another caller."""
        for outcome, count in (("hit", hits), ("miss", misses), ("joined", joined)):
            if count:
                self._lookups.labels(outcome).inc(count)

    def cache_evicted(self, entries: int) -> None:
        """So many vectors left."""
        self._evictions.inc(entries)

    def cache_size(self, entries: int, size_bytes: int) -> None:
        """What the cache holds now."""
        self._cache_entries.set(entries)
        self._cache_bytes.set(size_bytes)

    def events_done(self, counts: Sequence[int]) -> None:
        """So many events of a batch have each status, by the status's number."""
        for number, count in enumerate(counts):
            if count:
                self._events.labels(self._statuses[number]).inc(count)
