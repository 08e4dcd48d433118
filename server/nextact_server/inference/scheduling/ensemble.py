"""Ensembles: models whose steps are other models (`ensemble_scheduling`)."""

import threading
from collections.abc import Sequence

from nextact_server.inference.infer_check import named
from nextact_server.inference.infer_errors import unavailable
from nextact_server.inference.infer_request import InferRequest
from nextact_server.inference.infer_spec import ModelSpec
from nextact_server.inference.instance import ModelDoor, StageTimes
from nextact_server.inference.scheduling.ensemble_check import check_ensemble
from nextact_server.inference.scheduling.ensemble_flow import EnsembleFlow
from nextact_server.inference.scheduling.ensemble_plan import EnsemblePlan
from nextact_server.inference.statistics import ModelStatistics

__all__ = ["EnsembleScheduler"]

_PLANS_KEPT = 64
_STOPPED = "{}Server is stopping, scheduler for model has stopped accepting new inference requests"


class EnsembleScheduler:
    """Takes requests through the steps that lead to what they ask for; has no threads and no queue of its own.

    A step starts as soon as its inputs are there, on the thread that brought the last of them, and steps that do not
    depend on each other run side by side. Members see the request's id, parameters, priority, timeout and sequence. The
    first member to fail answers the request, and what still runs for it is cancelled.

    Raises:
        InferError: INVALID_ARG, the ensemble and its members do not fit together.
    """

    def __init__(self, spec: ModelSpec, models: ModelDoor, statistics: ModelStatistics) -> None:
        self._spec = spec
        self._models = models
        self._statistics = statistics
        self.decoupled = check_ensemble(spec, models.spec)
        self._plans: dict[tuple[str, ...], EnsemblePlan] = {}
        self._gate = threading.Condition()
        self._running: set[EnsembleFlow] = set()
        self._is_closed = False

    def submit(self, requests: Sequence[InferRequest]) -> None:
        """See `Scheduler`."""
        # As Triton has it, an ensemble's request never waits; its members' do.
        self._statistics.left(len(requests))
        for request in requests:
            plan = self._plan(request.output_names)
            flow = EnsembleFlow(self._spec, self._models, request, plan, self, decoupled=self.decoupled)
            with self._gate:
                is_taken = not self._is_closed
                if is_taken:
                    self._running.add(flow)
            if is_taken:
                flow.start()
            else:
                request.respond(unavailable(_STOPPED.format(named(request.id))))

    def close(self, *, drain: bool = True) -> None:
        """See `Scheduler`."""
        with self._gate:
            self._is_closed = True
            running = list(self._running)
        if not drain:
            for flow in running:
                flow.fail(unavailable(_STOPPED.format(named(flow.request.id))))
        with self._gate:
            while self._running:
                self._gate.wait()

    def _plan(self, asked: Sequence[str]) -> EnsemblePlan:
        key = tuple(asked)
        plan = self._plans.get(key)
        if plan is None:
            plan = EnsemblePlan.of(self._spec, key)
            if len(self._plans) < _PLANS_KEPT:
                self._plans[key] = plan
        return plan

    def finished(self, flow: EnsembleFlow, started_ns: int, times: StageTimes) -> None:
        """See `FlowListener`. Its times are the sums of its members', as Triton counts them."""
        self._statistics.entered(1)
        self._statistics.executed([flow.request], started_ns, times)

    def left(self, flow: EnsembleFlow) -> None:
        """See `FlowListener`."""
        with self._gate:
            self._running.discard(flow)
            if self._is_closed and not self._running:
                self._gate.notify_all()
