"""One loaded model version, as those who ask see it."""

import threading
import time
from collections.abc import Callable, Sequence

from nextact_server.inference.infer_errors import InferError
from nextact_server.inference.infer_request import InferRequest, InferResponse
from nextact_server.inference.infer_spec import ModelSpec
from nextact_server.inference.instance import Scheduler
from nextact_server.inference.statistics import ModelStatistics
from nextact_server.repository.config import ModelConfig

__all__ = ["Retired", "ServedModel"]


class Retired(Exception):
    """This version was unloaded or replaced since it was looked up: look again."""


class ServedModel:
    """Spec, completed configuration, statistics and scheduler of a version; closed once nobody is inside any more."""

    def __init__(
        self,
        spec: ModelSpec,
        config: ModelConfig,
        statistics: ModelStatistics,
        scheduler: Scheduler,
        free: Callable[[], None] = lambda: None,
    ) -> None:
        self.spec = spec
        self.config = config
        self.statistics = statistics
        self._scheduler = scheduler
        self._free = free
        self._gate = threading.Condition()
        self._entering = 0
        self._retired = False

    def infer(self, requests: Sequence[InferRequest]) -> None:
        """Take checked requests that arrived together; whatever becomes of them is their response.

        Raises:
            Retired: it takes nothing more; nothing of the requests was taken.
        """
        with self._gate:
            if self._retired:
                raise Retired
            self._entering += 1
        try:
            for request in requests:
                request.owner = self
            self.statistics.entered(len(requests))
            self._scheduler.submit(requests)
        finally:
            self._leave()

    def responded(self, request: InferRequest, response: InferResponse | InferError | None, final: bool) -> None:
        """Count a final response; see `RequestOwner`."""
        if not final:
            return
        taken_ns = time.monotonic_ns() - request.arrived_ns
        if isinstance(response, InferError):
            self.statistics.failed(response, taken_ns)
        else:
            self.statistics.succeeded(1, taken_ns)

    def close(self) -> None:
        """Take nothing more, answer what was taken, then free the model. Blocks; once only."""
        with self._gate:
            self._retired = True
            while self._entering:
                self._gate.wait()
        self._scheduler.close(drain=True)
        self._free()

    def _leave(self) -> None:
        with self._gate:
            self._entering -= 1
            if self._retired and not self._entering:
                self._gate.notify_all()
