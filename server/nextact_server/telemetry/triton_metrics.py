"""Metrics under Triton's names, read from the models' own counts when somebody asks: nothing is counted twice.

https://github.com/triton-inference-server/server/blob/main/docs/user_guide/metrics.md
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from nextact_server.telemetry.cpu_metrics import CpuMeter, CpuUse

__all__ = ["TritonMetrics", "VersionCounts"]

FAILURE_REASONS = ("BACKEND", "CANCELED", "OTHER", "REJECTED")


class Counted(Protocol):
    """How often, and how long in all (`inference.statistics.Count`)."""

    @property
    def count(self) -> int: ...
    @property
    def ns(self) -> int: ...


class Counts(Protocol):
    """What a version did (`inference.statistics.StatisticsSnapshot`)."""

    @property
    def inference_count(self) -> int: ...
    @property
    def execution_count(self) -> int: ...
    @property
    def pending(self) -> int: ...
    @property
    def success(self) -> Counted: ...
    @property
    def fail(self) -> Counted: ...
    @property
    def queue(self) -> Counted: ...
    @property
    def compute_input(self) -> Counted: ...
    @property
    def compute_infer(self) -> Counted: ...
    @property
    def compute_output(self) -> Counted: ...
    @property
    def cache_hit(self) -> Counted: ...
    @property
    def cache_miss(self) -> Counted: ...
    @property
    def failures(self) -> Mapping[str, int]: ...


@dataclass(frozen=True, slots=True)
class VersionCounts:
    """A ready model version's counts; `cached`: whether it uses the response cache. `load_s`: how long loading took."""

    model: str
    version: str
    counts: Counts
    cached: bool = False
    load_s: float | None = None


Value = Callable[[VersionCounts], float]


@dataclass(frozen=True, slots=True)
class _Family:
    name: str
    documentation: str
    value: Value
    kind: str = "counter"
    applies: Callable[[VersionCounts], bool] = lambda _: True


def _us(count: Counted) -> int:
    return count.ns // 1000


_SUCCESS = _Family(
    "nv_inference_request_success",
    "Number of successful inference requests, all batch sizes",
    lambda version: version.counts.success.count,
)
_FAMILIES = (
    _Family(
        "nv_inference_count",
        "Number of inferences performed (does not include cached requests)",
        lambda version: version.counts.inference_count,
    ),
    _Family(
        "nv_inference_exec_count",
        "Number of model executions performed (does not include cached requests)",
        lambda version: version.counts.execution_count,
    ),
    _Family(
        "nv_inference_request_duration_us",
        "Cumulative inference request duration in microseconds (includes cached requests)",
        lambda version: _us(version.counts.success),
    ),
    _Family(
        "nv_inference_queue_duration_us",
        "Cumulative inference queuing duration in microseconds (includes cached requests)",
        lambda version: _us(version.counts.queue),
    ),
    _Family(
        "nv_inference_compute_input_duration_us",
        "Cumulative compute input duration in microseconds (does not include cached requests)",
        lambda version: _us(version.counts.compute_input),
    ),
    _Family(
        "nv_inference_compute_infer_duration_us",
        "Cumulative compute inference duration in microseconds (does not include cached requests)",
        lambda version: _us(version.counts.compute_infer),
    ),
    _Family(
        "nv_inference_compute_output_duration_us",
        "Cumulative inference compute output duration in microseconds (does not include cached requests)",
        lambda version: _us(version.counts.compute_output),
    ),
    _Family(
        "nv_cache_num_hits_per_model",
        "Number of cache hits per model",
        lambda version: version.counts.cache_hit.count,
        applies=lambda version: version.cached,
    ),
    _Family(
        "nv_cache_hit_duration_per_model",
        "Total cache hit duration per model, in microseconds",
        lambda version: _us(version.counts.cache_hit),
        applies=lambda version: version.cached,
    ),
    _Family(
        "nv_cache_num_misses_per_model",
        "Number of cache misses per model",
        lambda version: version.counts.cache_miss.count,
        applies=lambda version: version.cached,
    ),
    _Family(
        "nv_cache_miss_duration_per_model",
        "Total cache miss (insert+lookup) duration per model, in microseconds",
        lambda version: _us(version.counts.cache_miss),
        applies=lambda version: version.cached,
    ),
    _Family(
        "nv_inference_pending_request_count",
        "Instantaneous number of pending requests awaiting execution per-model.",
        lambda version: version.counts.pending,
        "gauge",
    ),
    _Family(
        "nv_model_load_duration_secs",
        "Model load time in seconds",
        lambda version: version.load_s or 0.0,
        "gauge",
        lambda version: version.load_s is not None,
    ),
)


class TritonMetrics(Collector):
    """Collects Triton's metrics of the model versions that are ready; register it with a `CollectorRegistry`."""

    def __init__(self, versions: Callable[[], Iterable[VersionCounts]], cpu: CpuMeter | None = None) -> None:
        self._versions = versions
        self._cpu = cpu or CpuMeter()

    def describe(self) -> Iterable[Metric]:
        """The families alone: so that names that exist already are noticed, and single ones can be asked for."""
        return [*_of_models([]), *_of_machine(CpuUse(0.0, 0, 0))]

    def collect(self) -> Iterator[Metric]:
        """The families that have values; those of models in the order of the versions given."""
        for family in _of_models(list(self._versions())):
            if family.samples:
                yield family
        cpu = self._cpu.read()
        if cpu is not None:
            yield from _of_machine(cpu)


class _BareName(str):
    """The name of a counter's family. prometheus-client puts `_total` behind a counter's name, and Triton's have none:
    dashboards ask for the bare names."""

    __slots__ = ()

    def __add__(self, suffix: str) -> str:
        return str(self) if suffix == "_total" else super().__add__(suffix)


def _family(name: str, documentation: str, kind: str) -> Metric:
    return Metric(_BareName(name), documentation, kind)


def _of_models(versions: Sequence[VersionCounts]) -> Iterator[Metric]:
    yield _of_versions(_SUCCESS, versions)
    yield _failures(versions)
    for family in _FAMILIES:
        yield _of_versions(family, versions)


def _of_machine(cpu: CpuUse) -> Iterator[Metric]:
    yield _gauge("nv_cpu_utilization", "CPU utilization rate [0.0 - 1.0]", cpu.utilization)
    yield _gauge("nv_cpu_memory_total_bytes", "CPU total memory (RAM), in bytes", cpu.memory_total_bytes)
    yield _gauge("nv_cpu_memory_used_bytes", "CPU used memory (RAM), in bytes", cpu.memory_used_bytes)


def _of_versions(family: _Family, versions: Iterable[VersionCounts]) -> Metric:
    metric = _family(family.name, family.documentation, family.kind)
    for version in versions:
        if family.applies(version):
            labels = {"model": version.model, "version": version.version}
            metric.add_sample(family.name, labels, family.value(version))
    return metric


def _failures(versions: Iterable[VersionCounts]) -> Metric:
    name = "nv_inference_request_failure"
    metric = _family(name, "Number of failed inference requests, all batch sizes", "counter")
    for version in versions:
        for reason in FAILURE_REASONS:
            labels = {"model": version.model, "version": version.version, "reason": reason}
            metric.add_sample(name, labels, version.counts.failures.get(reason, 0))
    return metric


def _gauge(name: str, documentation: str, value: float) -> Metric:
    metric = _family(name, documentation, "gauge")
    metric.add_sample(name, {}, value)
    return metric
