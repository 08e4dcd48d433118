"""Metrics under Triton's names: the text that a scrape gets, compared with that of Triton 2.51."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from nextact_server.inference.statistics import StatisticsSnapshot
from nextact_server.telemetry.cpu_metrics import CpuMeter
from nextact_server.telemetry.triton_metrics import TritonMetrics, VersionCounts

TRITON = """
# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
# TYPE nv_inference_request_success counter
# HELP nv_inference_request_failure Number of failed inference requests, all batch sizes
# TYPE nv_inference_request_failure counter
# HELP nv_inference_count Number of inferences performed (does not include cached requests)
# TYPE nv_inference_count counter
# HELP nv_inference_exec_count Number of model executions performed (does not include cached requests)
# TYPE nv_inference_exec_count counter
# HELP nv_inference_request_duration_us Cumulative inference request duration in microseconds (includes cached requests)
# TYPE nv_inference_request_duration_us counter
# HELP nv_inference_queue_duration_us Cumulative inference queuing duration in microseconds (includes cached requests)
# TYPE nv_inference_queue_duration_us counter
# HELP nv_inference_compute_input_duration_us Cumulative compute input duration in microseconds (does not include \
cached requests)
# TYPE nv_inference_compute_input_duration_us counter
# HELP nv_inference_compute_infer_duration_us Cumulative compute inference duration in microseconds (does not include \
cached requests)
# TYPE nv_inference_compute_infer_duration_us counter
# HELP nv_inference_compute_output_duration_us Cumulative inference compute output duration in microseconds (does not \
include cached requests)
# TYPE nv_inference_compute_output_duration_us counter
# HELP nv_cache_num_hits_per_model Number of cache hits per model
# TYPE nv_cache_num_hits_per_model counter
# HELP nv_cache_hit_duration_per_model Total cache hit duration per model, in microseconds
# TYPE nv_cache_hit_duration_per_model counter
# HELP nv_cache_num_misses_per_model Number of cache misses per model
# TYPE nv_cache_num_misses_per_model counter
# HELP nv_cache_miss_duration_per_model Total cache miss (insert+lookup) duration per model, in microseconds
# TYPE nv_cache_miss_duration_per_model counter
# HELP nv_inference_pending_request_count Instantaneous number of pending requests awaiting execution per-model.
# TYPE nv_inference_pending_request_count gauge
# HELP nv_cpu_utilization CPU utilization rate [0.0 - 1.0]
# TYPE nv_cpu_utilization gauge
# HELP nv_cpu_memory_total_bytes CPU total memory (RAM), in bytes
# TYPE nv_cpu_memory_total_bytes gauge
# HELP nv_cpu_memory_used_bytes CPU used memory (RAM), in bytes
# TYPE nv_cpu_memory_used_bytes gauge
""".strip()


@pytest.fixture
def counts() -> StatisticsSnapshot:
    counts = StatisticsSnapshot(inference_count=9, execution_count=3, pending=2, failures={"BACKEND": 4})
    for number, field in enumerate(
        ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss"), 1
    ):
        getattr(counts, field).add(number, number * 1000 + 999)
    return counts


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemFree: 10 kB\nMemAvailable: 40 kB\n")
    (tmp_path / "stat").write_text("cpu  10 0 10 80 0 0 0 0 5 5\ncpu0 1 2 3\n")
    return tmp_path


def scrape(*versions: VersionCounts, proc: Path | None = None) -> str:
    registry = CollectorRegistry()
    registry.register(TritonMetrics(lambda: versions, CpuMeter(proc) if proc else None))
    return generate_latest(registry).decode()


def test_names_help_and_types_are_tritons(counts: StatisticsSnapshot, proc: Path) -> None:
    text = scrape(VersionCounts("m", "1", counts, cached=True), proc=proc)
    assert "\n".join(line for line in text.splitlines() if line.startswith("#")) == TRITON


def test_samples_have_tritons_names_and_labels_and_microseconds(counts: StatisticsSnapshot) -> None:
    text = scrape(VersionCounts("m", "1", counts, cached=True), VersionCounts("n", "2", counts, load_s=1.5))
    lines = text.splitlines()
    for line in (
        'nv_inference_request_success{model="m",version="1"} 1.0',
        'nv_inference_request_failure{model="m",reason="BACKEND",version="1"} 4.0',
        'nv_inference_request_failure{model="m",reason="CANCELED",version="1"} 0.0',
        'nv_inference_request_failure{model="m",reason="OTHER",version="1"} 0.0',
        'nv_inference_request_failure{model="m",reason="REJECTED",version="1"} 0.0',
        'nv_inference_count{model="m",version="1"} 9.0',
        'nv_inference_exec_count{model="m",version="1"} 3.0',
        'nv_inference_request_duration_us{model="m",version="1"} 1.0',
        'nv_inference_queue_duration_us{model="n",version="2"} 3.0',
        'nv_inference_compute_input_duration_us{model="m",version="1"} 4.0',
        'nv_inference_compute_infer_duration_us{model="m",version="1"} 5.0',
        'nv_inference_compute_output_duration_us{model="m",version="1"} 6.0',
        'nv_cache_num_hits_per_model{model="m",version="1"} 7.0',
        'nv_cache_hit_duration_per_model{model="m",version="1"} 7.0',
        'nv_cache_num_misses_per_model{model="m",version="1"} 8.0',
        'nv_cache_miss_duration_per_model{model="m",version="1"} 8.0',
        'nv_inference_pending_request_count{model="m",version="1"} 2.0',
        'nv_model_load_duration_secs{model="n",version="2"} 1.5',
    ):
        assert line in lines
    assert "_total{" not in text
    assert 'nv_cache_num_hits_per_model{model="n"' not in text, "it has no cache"


def test_the_other_text_format_has_the_same_names(counts: StatisticsSnapshot) -> None:
    registry = CollectorRegistry()
    registry.register(TritonMetrics(lambda: [VersionCounts("m", "1", counts)]))
    text = generate_openmetrics(registry).decode()
    assert 'nv_inference_count{model="m",version="1"} 9.0' in text
    assert "# TYPE nv_inference_count counter" in text


def test_single_metrics_can_be_asked_for(counts: StatisticsSnapshot) -> None:
    registry = CollectorRegistry()
    registry.register(TritonMetrics(lambda: [VersionCounts("m", "1", counts)]))
    Counter("nextact_things", "Not asked for.", registry=registry)
    text = generate_latest(registry.restricted_registry(["nv_inference_count"])).decode()
    assert [line for line in text.splitlines() if not line.startswith("#")] == [
        'nv_inference_count{model="m",version="1"} 9.0'
    ]


def test_counts_are_read_at_every_scrape_and_versions_come_and_go() -> None:
    counts = StatisticsSnapshot()
    versions = [VersionCounts("m", "1", counts)]
    registry = CollectorRegistry()
    registry.register(TritonMetrics(lambda: list(versions)))
    counts.inference_count = 5
    assert 'nv_inference_count{model="m",version="1"} 5.0' in generate_latest(registry).decode()
    versions.clear()
    assert "nv_inference_count" not in generate_latest(registry).decode()


def test_the_machines_use_is_that_since_the_scrape_before(proc: Path) -> None:
    meter = CpuMeter(proc)
    (proc / "stat").write_text("cpu  30 0 20 130 20 0 0 0 9 9\n")
    found = meter.read()
    assert found is not None
    assert found.utilization == pytest.approx(30 / 100)
    assert (found.memory_total_bytes, found.memory_used_bytes) == (100 * 1024, 60 * 1024)
    assert meter.read() == found, "no time has gone by"


@pytest.mark.parametrize("content", ["", "nonsense\n", "cpu x y z a b c\n"])
def test_a_machine_that_tells_nothing_has_no_metrics_of_itself(proc: Path, content: str) -> None:
    (proc / "stat").write_text(content)
    assert "nv_cpu" not in scrape(proc=proc)
    (proc / "stat").unlink()
    (proc / "meminfo").unlink()
    assert "nv_cpu" not in scrape(proc=proc)


def test_this_machine_tells() -> None:
    found = CpuMeter().read()
    assert found is not None
    assert 0 <= found.utilization <= 1
    assert 0 < found.memory_used_bytes < found.memory_total_bytes


@given(st.lists(st.tuples(*[st.integers(0, 1000)] * 8), min_size=2, max_size=5))
def test_utilization_is_a_share_whatever_the_kernel_says(readings: list[tuple[int, ...]]) -> None:
    meter = _Meter(iter(readings))
    for _ in readings[1:]:
        found = meter.read()
        assert found is None or 0 <= found.utilization <= 1


class _Meter(CpuMeter):
    """A meter of given readings."""

    def __init__(self, readings: Iterator[tuple[int, ...]]) -> None:
        self._readings = readings
        super().__init__()

    def _jiffies(self) -> tuple[int, int]:
        columns = next(self._readings)
        return sum(columns) - columns[3] - columns[4], sum(columns)
