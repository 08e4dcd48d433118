"""One batch on one instance, timed and counted: what every scheduler runs."""

import logging
import time
from collections.abc import Sequence
from typing import Protocol

from nextact_server.inference.infer_errors import InferError, internal
from nextact_server.inference.infer_request import InferRequest
from nextact_server.inference.instance import ModelInstance, Result, StageTimes
from nextact_server.inference.statistics import ModelStatistics

__all__ = ["BatchListener", "Execution", "as_infer_error"]

logger = logging.getLogger(__name__)


class BatchListener(Protocol):
    """Is told of each executed batch, for metrics and traces."""

    def executed(self, requests: Sequence[InferRequest], started_ns: int, times: StageTimes) -> None:
        """A batch ran; `started_ns` is `time.monotonic_ns` when it left its queue."""


class Execution:
    """Runs batches on an instance for one worker thread."""

    def __init__(
        self, instance: ModelInstance, statistics: ModelStatistics, listener: BatchListener | None = None
    ) -> None:
        self.instance = instance
        self._statistics = statistics
        self._listener = listener

    def run(self, requests: Sequence[InferRequest]) -> Sequence[Result]:
        """A result per request.

        An instance that is `retry_safe` may raise out of here when there are several requests, so that the caller tries
        halves; every other failure is each request's result.
        """
        started_ns = time.monotonic_ns()
        times = StageTimes()
        try:
            results = self.instance.execute(requests, times)
            if len(results) != len(requests):
                raise internal(f"the model returned {len(results)} results for {len(requests)} requests")
        except Exception as error:
            self._statistics.execution_failed(requests, started_ns)
            if self.instance.retry_safe and len(requests) > 1:
                raise
            self._statistics.left(sum([not request.is_null for request in requests]))
            failure = as_infer_error(error)
            return [failure] * len(requests)
        self._statistics.executed(requests, started_ns, times)
        if self._listener is not None:
            self._listener.executed(requests, started_ns, times)
        return results


def as_infer_error(error: BaseException) -> InferError:
    """The answer to a caller for whatever a model raised: its own InferError, or INTERNAL with the type and text."""
    if isinstance(error, InferError):
        return error
    logger.error("a model failed", exc_info=error)
    return internal(f"{type(error).__name__}: {error}")
