"""What a model version did, counted as Triton counts it.

Durations are nanoseconds. The fields are those of the statistics extension
(https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md).
"""

import threading
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field

from nextact_server.inference.infer_errors import ErrorCode, InferError
from nextact_server.inference.infer_request import InferRequest
from nextact_server.inference.instance import StageTimes

__all__ = ["BatchCounts", "Count", "ModelStatistics", "ResponseCounts", "StatisticsSnapshot", "failure_reason"]


@dataclass(slots=True)
class Count:
    """How often, and how long in all."""

    count: int = 0
    ns: int = 0

    def add(self, count: int, ns: int) -> None:
        """Add so many, which took so long together."""
        self.count += count
        self.ns += ns


@dataclass(slots=True)
class BatchCounts:
    """Executions of one batch size."""

    compute_input: Count = field(default_factory=Count)
    compute_infer: Count = field(default_factory=Count)
    compute_output: Count = field(default_factory=Count)


@dataclass(slots=True)
class ResponseCounts:
    """The n-th responses of decoupled requests."""

    compute_infer: Count = field(default_factory=Count)
    compute_output: Count = field(default_factory=Count)
    success: Count = field(default_factory=Count)
    fail: Count = field(default_factory=Count)
    empty_response: Count = field(default_factory=Count)
    cancel: Count = field(default_factory=Count)


@dataclass(slots=True)
class StatisticsSnapshot:
    """All counts of a version at one moment. `last_inference_ms` is Unix time."""

    last_inference_ms: int = 0
    inference_count: int = 0
    execution_count: int = 0
    pending: int = 0
    success: Count = field(default_factory=Count)
    fail: Count = field(default_factory=Count)
    queue: Count = field(default_factory=Count)
    compute_input: Count = field(default_factory=Count)
    compute_infer: Count = field(default_factory=Count)
    compute_output: Count = field(default_factory=Count)
    cache_hit: Count = field(default_factory=Count)
    cache_miss: Count = field(default_factory=Count)
    failures: dict[str, int] = field(default_factory=dict)
    batches: dict[int, BatchCounts] = field(default_factory=dict)
    responses: dict[str, ResponseCounts] = field(default_factory=dict)


def failure_reason(error: InferError) -> str:
    """The `reason` label of nv_inference_request_failure."""
    if error.code is ErrorCode.CANCELLED:
        return "CANCELED"
    if error.code in (ErrorCode.UNAVAILABLE, ErrorCode.EXHAUSTED, ErrorCode.DEADLINE):
        return "REJECTED"
    return "BACKEND" if error.code is ErrorCode.INTERNAL else "OTHER"


class ModelStatistics:
    """The counts of one model version; any thread may add, once per batch or per answered request."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = StatisticsSnapshot()

    def executed(self, requests: Sequence[InferRequest], started_ns: int, times: StageTimes) -> None:
        """A batch ran to its end; it left its queue at `started_ns` of `time.monotonic_ns`.

        Null requests make it larger, as in Triton, and are counted nowhere else.
        """
        rows = nulls = queue_ns = 0
        for request in requests:
            rows += request.batch_size
            if request.is_null:
                nulls += 1
                continue
            queue_ns += started_ns - request.arrived_ns
            if request.stages is not None:
                request.stages.add(times)
        count = len(requests) - nulls
        with self._lock:
            counts = self._counts
            counts.last_inference_ms = time.time_ns() // 1_000_000
            counts.inference_count += rows - nulls
            counts.execution_count += 1
            counts.pending -= count
            counts.queue.add(count, queue_ns)
            # Every request of a batch is charged the whole of it, as Triton does.
            counts.compute_input.add(count, count * times.input_ns)
            counts.compute_infer.add(count, count * times.infer_ns)
            counts.compute_output.add(count, count * times.output_ns)
            batch = counts.batches.setdefault(rows, BatchCounts())
            batch.compute_input.add(1, times.input_ns)
            batch.compute_infer.add(1, times.infer_ns)
            batch.compute_output.add(1, times.output_ns)

    def execution_failed(self, requests: Sequence[InferRequest], started_ns: int) -> None:
        """A batch failed after it left its queue: an execution that inferred nothing, all of it computing.

        Its requests are counted by whoever answers them or runs them again.
        """
        now = time.monotonic_ns()
        rows = sum([request.batch_size for request in requests])
        with self._lock:
            counts = self._counts
            counts.last_inference_ms = time.time_ns() // 1_000_000
            counts.execution_count += 1
            batch = counts.batches.setdefault(rows, BatchCounts())
            batch.compute_input.add(1, 0)
            batch.compute_infer.add(1, now - started_ns)
            batch.compute_output.add(1, 0)

    def entered(self, count: int) -> None:
        """So many requests began to wait for an instance."""
        with self._lock:
            self._counts.pending += count

    def left(self, count: int) -> None:
        """So many ended their wait without being executed: refused, expired, cancelled, or failed with their batch."""
        with self._lock:
            self._counts.pending -= count

    def succeeded(self, count: int, ns: int) -> None:
        """So many requests were answered, which took so long together from arrival to answer."""
        with self._lock:
            self._counts.success.add(count, ns)

    def failed(self, error: InferError, ns: int) -> None:
        """A request was answered with an error."""
        reason = failure_reason(error)
        with self._lock:
            self._counts.fail.add(1, ns)
            self._counts.failures[reason] = self._counts.failures.get(reason, 0) + 1

    def cache_hit(self, ns: int, queue_ns: int = 0) -> None:
        """The response cache answered, after the request waited for so long; Triton counts that wait as queueing."""
        with self._lock:
            self._counts.queue.add(1, queue_ns)
            self._counts.cache_hit.add(1, ns)

    def cache_missed(self, ns: int) -> None:
        """The response cache was asked, and later filled, which took so long together."""
        with self._lock:
            self._counts.cache_miss.add(1, ns)

    def streamed(self, number: int, kind: str, infer_ns: int, output_ns: int) -> None:
        """The response `number` (from 0) of a decoupled request; `kind` is the field of ResponseCounts."""
        with self._lock:
            counts = self._counts.responses.setdefault(str(number), ResponseCounts())
            getattr(counts, kind).add(1, infer_ns + output_ns)
            counts.compute_infer.add(1, infer_ns)
            if kind != "empty_response":
                counts.compute_output.add(1, output_ns)

    def snapshot(self) -> StatisticsSnapshot:
        """A copy of all counts."""
        with self._lock:
            return deepcopy(self._counts)
