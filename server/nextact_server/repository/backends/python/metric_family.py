"""`pb_utils.MetricFamily` and its metrics."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from nextact_server.repository.backends.python.context import InstanceContext, current
from nextact_server.repository.backends.python.errors import TritonModelException, incompatible
from nextact_server.repository.backends.python.metrics import Cell, MetricError, MetricKind

__all__ = ["Metric", "MetricFamily"]


class Metric:
    """One metric of a family, with its labels."""

    __slots__ = ("_cell", "_context")

    def __init__(self, cell: Cell, context: InstanceContext) -> None:
        self._cell = cell
        self._context = context

    def increment(self, value: float, /) -> None:
        """Add to a counter or a gauge."""
        try:
            self._cell.increment(float(value))
        except MetricError as error:
            raise self._context.failed("Failed to increment metric value", error) from None

    def set(self, value: float, /) -> None:
        """Set a gauge."""
        try:
            self._cell.set(float(value))
        except MetricError as error:
            raise self._context.failed("Failed to set metric value", error) from None

    def observe(self, value: float, /) -> None:
        """Count a value in a histogram."""
        try:
            self._cell.observe(float(value))
        except MetricError as error:
            raise self._context.failed("Failed to observe metric value", error) from None

    def value(self) -> float:
        """The value of a counter or a gauge."""
        try:
            return self._cell.value()
        except MetricError as error:
            raise self._context.failed("Failed to get metric value", error) from None


class MetricFamily:
    """Metrics of one name and kind. See `InferenceRequest` for `_context`."""

    COUNTER: ClassVar = MetricKind.COUNTER
    GAUGE: ClassVar = MetricKind.GAUGE
    HISTOGRAM: ClassVar = MetricKind.HISTOGRAM

    _context: ClassVar[InstanceContext | None] = None

    def __init__(self, name: str, description: str, kind: MetricKind) -> None:
        if not isinstance(name, str) or not isinstance(description, str) or not isinstance(kind, MetricKind):
            raise incompatible(
                "c_python_backend_utils.MetricFamily(name: str, description: str, kind: "
                "c_python_backend_utils.MetricKind)",
                name,
                description,
                kind,
            )
        self._asked_by = self._context or current()
        try:
            self._family = self._asked_by.metrics.family(name, description, kind)
        except MetricError as error:
            raise self._asked_by.failed("Error when creating MetricFamily", error) from None

    def Metric(  # noqa: N802 - Triton's name
        self, labels: Mapping[Any, Any] | None = None, buckets: Sequence[float] | None = None
    ) -> Metric:
        """The metric of these labels; a histogram needs its buckets' upper bounds.

        Raises:
            TritonModelException: labels or buckets are not what the kind takes.
        """
        if labels is not None and not isinstance(labels, dict):
            raise TritonModelException("Failed to create metric. Labels must be a dictionary.")
        if buckets is not None and not isinstance(buckets, list):
            raise TritonModelException("Failed to create metric. Buckets must be a list.")
        is_histogram = self._family.kind is MetricKind.HISTOGRAM
        if is_histogram and not buckets:
            raise TritonModelException("Failed to create metric. Missing required buckets.")
        if not is_histogram and buckets:
            raise TritonModelException("Failed to create metric. Unexpected buckets found.")
        names = {str(label): str(value) for label, value in (labels or {}).items()}
        try:
            cell = self._family.cell(names, [float(bound) for bound in buckets or ()])
        except MetricError as error:
            raise self._asked_by.failed("Error when creating Metric", error) from None
        return Metric(cell, self._asked_by)
