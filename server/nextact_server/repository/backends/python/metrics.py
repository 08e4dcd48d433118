"""The metrics that models keep: counters, gauges and histograms whose names and labels only they know.

A metric is there as long as a model holds it, as in Triton: what is unloaded is shown no more.
"""

import re
import threading
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from weakref import WeakValueDictionary

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric as Exposed
from prometheus_client.registry import Collector

__all__ = ["Cell", "Family", "MetricError", "MetricKind", "MetricTable"]

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")

Labels = tuple[tuple[str, str], ...]


class MetricKind(IntEnum):
    """What a metric does."""

    COUNTER = 0
    GAUGE = 1
    HISTOGRAM = 2


class MetricError(ValueError):
    """A metric that cannot be, or cannot do that; the message is Triton's where it has one."""


class Cell:
    """One metric: a value, or a histogram's counts. Any thread."""

    __slots__ = ("__weakref__", "_bounds", "_counts", "_lock", "_sum", "_value", "family", "labels")

    def __init__(self, family: "Family", labels: Labels, bounds: Sequence[float]) -> None:
        self.family = family
        self.labels = labels
        self._lock = threading.Lock()
        self._value = 0.0
        self._sum = 0.0
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)

    def increment(self, amount: float) -> None:
        """Add to it. Raises MetricError for a histogram, and for a counter that would fall."""
        if self.family.kind is MetricKind.HISTOGRAM:
            raise self._cannot("Increment")
        if self.family.kind is MetricKind.COUNTER and amount < 0:
            raise MetricError(
                "TRITONSERVER_METRIC_KIND_COUNTER can only be incremented monotonically by non-negative values."
            )
        with self._lock:
            self._value += amount

    def set(self, value: float) -> None:
        """Set it. Raises MetricError for anything but a gauge."""
        if self.family.kind is not MetricKind.GAUGE:
            raise self._cannot("Set")
        with self._lock:
            self._value = value

    def observe(self, value: float) -> None:
        """Count a value. Raises MetricError for anything but a histogram."""
        if self.family.kind is not MetricKind.HISTOGRAM:
            raise self._cannot("Observe")
        with self._lock:
            self._counts[bisect_left(self._bounds, value)] += 1
            self._sum += value

    def value(self) -> float:
        """What it is now. Raises MetricError for a histogram."""
        if self.family.kind is MetricKind.HISTOGRAM:
            raise self._cannot("Value")
        return self._value

    def samples(self) -> Iterator[tuple[str, dict[str, str], float]]:
        """What is shown of it: the suffix of the family's name, labels, value."""
        labels = dict(self.labels)
        if self.family.kind is not MetricKind.HISTOGRAM:
            yield "", labels, self._value
            return
        with self._lock:
            counts, total = list(self._counts), self._sum
        below = 0
        for bound, count in zip((*self._bounds, float("inf")), counts, strict=True):
            below += count
            yield "_bucket", labels | {"le": "+Inf" if bound == float("inf") else str(float(bound))}, below
        yield "_count", labels, below
        yield "_sum", labels, total

    def _cannot(self, what: str) -> MetricError:
        return MetricError(f"TRITONSERVER_METRIC_KIND_{self.family.kind.name} does not support {what}")


class Family:
    """The metrics of one name; equal labels are the same metric, whichever instance asks."""

    def __init__(self, name: str, description: str, kind: MetricKind) -> None:
        self.name = name
        self.description = description
        self.kind = kind
        self._lock = threading.RLock()
        self._cells: WeakValueDictionary[Labels, Cell] = WeakValueDictionary()

    def cell(self, labels: Mapping[str, str], bounds: Sequence[float]) -> Cell:
        """The metric of these labels, made where it is not there yet. Raises MetricError for a label's name."""
        if any(not _LABEL.fullmatch(label) for label in labels):
            raise MetricError("Invalid label name")
        key = tuple(sorted(labels.items()))
        with self._lock:
            cell = self._cells.get(key)
            if cell is None:
                cell = self._cells[key] = Cell(self, key, sorted(bounds))
            return cell

    def exposed(self) -> Exposed:
        """The family as prometheus-client shows it."""
        metric = Exposed(_BareName(self.name), self.description, self.kind.name.lower())
        for cell in list(self._cells.values()):
            for suffix, labels, value in cell.samples():
                metric.add_sample(self.name + suffix, labels, value)
        return metric


class MetricTable(Collector):
    """The families of all models of a server, shown by `registry`; None: by nobody."""

    def __init__(self, registry: CollectorRegistry | None) -> None:
        self._lock = threading.RLock()
        self._families: WeakValueDictionary[str, Family] = WeakValueDictionary()
        if registry is not None:
            registry.register(self)

    def family(self, name: str, description: str, kind: MetricKind) -> Family:
        """The family of that name. Raises MetricError for a bad name, and where it is of another kind."""
        if not _NAME.fullmatch(name):
            raise MetricError("Invalid metric name")
        with self._lock:
            family = self._families.get(name)
            if family is None:
                family = self._families[name] = Family(name, description, kind)
        if (family.kind, family.description) != (kind, description):
            raise MetricError(f"Metric name '{name}' is already used by a family of another kind or description")
        return family

    def describe(self) -> list[Exposed]:
        """Nothing is known of it before a model is loaded."""
        return []

    def collect(self) -> Iterator[Exposed]:
        """Every family that a model holds."""
        return iter([family.exposed() for family in list(self._families.values())])


class _BareName(str):
    """prometheus-client puts `_total` behind a counter's name; a model's counter is called as the model says."""

    __slots__ = ()

    def __add__(self, suffix: str) -> str:
        return str(self) if suffix == "_total" else super().__add__(suffix)
