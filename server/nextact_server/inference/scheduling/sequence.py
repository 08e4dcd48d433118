"""Triton's sequence batcher: requests of one sequence run in order, one at a time, on the instance that began it.

See https://github.com/triton-inference-server/server/blob/main/docs/user_guide/batcher.md#sequence-batcher
"""

import logging
import threading
from collections.abc import Mapping
from collections.abc import Sequence as Items
from functools import partial

from nextact_server.inference.clock import Clock, MonotonicClock
from nextact_server.inference.infer_errors import InferError
from nextact_server.inference.infer_request import InferRequest
from nextact_server.inference.infer_spec import ModelSpec, SequenceBatching
from nextact_server.inference.instance import Result
from nextact_server.inference.rate_limiter import Runs
from nextact_server.inference.scheduling.sequence_batching import Direct, Likeness, Oldest, Strategy
from nextact_server.inference.scheduling.sequence_controls import ControlInputs
from nextact_server.inference.scheduling.sequence_errors import given_up, must_be_single, stopping
from nextact_server.inference.scheduling.sequence_expiry import ExpiryTimer
from nextact_server.inference.scheduling.sequence_run import SequenceRun
from nextact_server.inference.scheduling.sequence_slots import Lane, LiveSequence, SlotPool
from nextact_server.inference.scheduling.sequence_state import ImplicitState
from nextact_server.inference.scheduling.sequence_table import Refusal, SequenceTable
from nextact_server.inference.statistics import ModelStatistics
from nextact_server.inference.tensors import Tensor

__all__ = ["DEFAULT_IDLE_US", "SequenceScheduler"]

logger = logging.getLogger(__name__)

DEFAULT_IDLE_US = 1_000_000
"""max_sequence_idle_microseconds where a model does not say."""


class SequenceScheduler:
    """The `Scheduler` of a model whose schedule is a `SequenceBatching`: one worker thread per instance, one timer.

    An instance holds as many sequences as it has batch slots (direct) or `max_candidate_sequences` (oldest); those
    beyond them wait, whole, for the first slot that is free. A sequence is idle while nothing of it waits or runs; idle
    for `max_sequence_idle_microseconds` it ends and its later requests must start anew. A start for a sequence that
    lives restarts it in its place; one for a sequence whose end still waits begins when that is over.

    A request that fails is answered with the error, and its sequence goes on.

    Args:
        spec: the model.
        executions: what runs a batch on each instance.
        statistics: the model's.
        initial_state: first values of implicit states by input name, without the batch axis; zeros for the others.
        clock: what idle limits, delays and timeouts are measured by.

    Raises:
        InferError: the initial state does not fit.
    """

    def __init__(
        self,
        spec: ModelSpec,
        executions: Items[Runs],
        statistics: ModelStatistics,
        *,
        initial_state: Mapping[str, Tensor] | None = None,
        clock: Clock | None = None,
    ) -> None:
        batching = spec.schedule
        if not isinstance(batching, SequenceBatching):
            raise TypeError(f"model {spec.name!r} is scheduled by {batching!r}, not by sequences")
        controls = ControlInputs(batching.controls, batching=spec.max_batch_size > 0)
        states = ImplicitState(spec, batching.states, initial_state or {})
        likeness = Likeness(spec, states)
        oldest = batching.strategy == "oldest"
        slots = max(1, spec.max_batch_size)
        if oldest and batching.max_candidate_sequences > 0:
            slots = batching.max_candidate_sequences
        self._model = spec.name
        self._batches = spec.max_batch_size > 0
        self._statistics = statistics
        self._clock = clock or MonotonicClock()
        self._strategy: Strategy = (Oldest if oldest else Direct)(spec, batching, likeness)
        self._run = SequenceRun(
            controls, states, statistics, slotted=not oldest and slots > 1, decoupled=spec.decoupled
        )
        self._lock = threading.Lock()  # guards the table, the lanes and their sequences; never held across a run
        self._lanes = [Lane(index, self._lock) for index in range(len(executions))]
        self._timer = ExpiryTimer(f"sequence-expiry-{spec.name}", self._lock, self._clock, self._refuse)
        self._table = SequenceTable(
            spec.name,
            SlotPool(self._lanes, slots),
            idle_s=(batching.max_sequence_idle_us or DEFAULT_IDLE_US) / 1e6,
            iterative=batching.iterative,
            unfit=partial(controls.unfit, spec.name),
            alarm=self._timer.at,
        )
        self._workers = [
            threading.Thread(
                target=self._work, args=(lane, execution), name=f"sequence-{spec.name}-{lane.index}", daemon=True
            )
            for lane, execution in zip(self._lanes, executions, strict=True)
        ]
        self._timer.start(self._table.expire)
        for worker in self._workers:
            worker.start()

    def submit(self, requests: Items[InferRequest]) -> None:
        """Take requests that arrived together, in order; see `Scheduler`."""
        refused: list[Refusal] = []
        cancelled: list[tuple[LiveSequence, InferRequest]] = []
        with self._lock:
            now = self._clock.monotonic()
            if now >= self._timer.until:  # the timer's thread may be late; what is over must be over for everyone
                refused += self._table.expire(now)[0]
            for request in requests:
                if request.batch_size > 1 and self._batches:
                    refused.append((request, must_be_single(self._model)))
                    continue
                admitted = self._table.admit(request, now)
                if isinstance(admitted, InferError):
                    refused.append((request, admitted))
                    continue
                request.on_cancel = partial(self._cancel, admitted, request)
                if request.is_cancelled:  # before there was anyone to tell of it
                    cancelled.append((admitted, request))
        self._refuse(refused)
        for sequence, request in cancelled:
            self._cancel(sequence, request)

    def close(self, *, drain: bool = True) -> None:
        """Take no more and return when all was answered; see `Scheduler`. Sequences that did not end, end."""
        with self._lock:
            refused = self._table.close(self._clock.monotonic(), drain=drain)
            for lane in self._lanes:
                lane.wake()
        self._refuse(refused)
        for worker in self._workers:
            worker.join()
        self._timer.stop()

    def _work(self, lane: Lane, execution: Runs) -> None:
        while True:
            sequences, requests = self._take(lane)
            if not requests:
                return
            results = self._run.run(execution, sequences, requests)
            again = [
                (sequence, request)
                for sequence, request, result in zip(sequences, requests, results, strict=True)
                if request.reschedule and result is None
            ]
            refused = self._settle(sequences, again)
            for request, result in zip(requests, results, strict=True):
                if result is not None:
                    self._answer(request, result)
            self._refuse(refused)

    def _take(self, lane: Lane) -> tuple[list[LiveSequence], list[InferRequest]]:
        """The next batch of an instance, once there is one; nothing when there will be none any more."""
        table = self._table
        with self._lock:
            while True:
                sequences: list[LiveSequence] = []
                until: float | None = None
                if lane.ready:
                    now = self._clock.monotonic()
                    sequences, until = self._strategy.take(lane.ready, now, hurry=table.closed)
                elif table.closed and not table.waiting:
                    for other in self._lanes:  # what they waited for may have been cancelled
                        other.wake()
                    return [], []
                if sequences:
                    break
                lane.parked = True
                self._clock.wait(lane.arrived, until)
                lane.parked = False
            requests = []
            for sequence in sequences:
                sequence.busy = True
                request = sequence.waiting.popleft()
                request.on_cancel = None
                requests.append(request)
            table.waiting -= len(requests)
        return sequences, requests

    def _settle(self, sequences: Items[LiveSequence], again: Items[tuple[LiveSequence, InferRequest]]) -> list[Refusal]:
        """Let sequences go on after a run; those of the requests to be run `again` that may not."""
        refused: list[Refusal] = []
        if again:
            self._statistics.entered(len(again))
        with self._lock:
            now = self._clock.monotonic()
            for sequence, request in again:
                request.reschedule = request.sequence_start = False
                request.on_cancel = partial(self._cancel, sequence, request)
                if request.is_cancelled:
                    refused.append((request, given_up()))
                elif self._table.dropping:
                    refused.append((request, stopping()))
                else:
                    self._table.reschedule(sequence, request)
            for sequence in sequences:
                self._table.settle(sequence, now)
        return refused

    def _cancel(self, sequence: LiveSequence, request: InferRequest) -> None:
        with self._lock:
            refused = self._table.withdraw(sequence, request, self._clock.monotonic())
        self._refuse(refused)

    def _refuse(self, refused: Items[Refusal]) -> None:
        if refused:
            self._statistics.left(len(refused))
            for request, error in refused:
                request.on_cancel = None
                self._answer(request, error)

    def _answer(self, request: InferRequest, result: Result) -> None:
        try:
            request.respond(result)
        except Exception:  # a sink must not raise; one that does may not stop the model for everyone else
            logger.exception("the answer of a request to model %s was not taken", self._model)
