"""Requests to the instances of one model through the dynamic batcher, as its config says.

Without `dynamic_batching` every request is an execution of its own, as in Triton's default scheduler; with it a batch
is as many rows as wait, up to max_batch_size. Executions that share resources come already limited: see
`nextact_server.inference.rate_limiter`.
"""

from collections.abc import Callable, Hashable, Sequence

from nextact_server.inference.batch_errors import BatcherClosed, BatchError, DeadlineExpired, QueueFull
from nextact_server.inference.batcher import Batcher, BatchObserver, Clock, PriorityLevels
from nextact_server.inference.execution import as_infer_error
from nextact_server.inference.infer_check import named, splits
from nextact_server.inference.infer_errors import InferError, cancelled, internal, invalid_argument, unavailable
from nextact_server.inference.infer_request import InferRequest, responding_together
from nextact_server.inference.infer_spec import DynamicBatching, ModelSpec
from nextact_server.inference.instance import Result, Scheduler
from nextact_server.inference.rate_limiter import Runs
from nextact_server.inference.scheduling.splitting import split_rows
from nextact_server.inference.statistics import ModelStatistics

__all__ = ["MAX_WAITING_ROWS", "make_batching_scheduler"]

MAX_WAITING_ROWS = 65_536
"""Rows that may wait for a model whose queue policies set no bound."""


def make_batching_scheduler(
    spec: ModelSpec,
    executions: Sequence[Runs],
    statistics: ModelStatistics,
    *,
    clock: Clock | None = None,
    observer: BatchObserver | None = None,
) -> Scheduler:
    """The scheduler of a model that batches dynamically or not at all, one worker thread per execution.

    Raises:
        ValueError: the spec is scheduled otherwise, or there is no execution.
    """
    if spec.schedule is None:
        schedule, max_cost, cost = DynamicBatching(), 1, _one
    elif isinstance(spec.schedule, DynamicBatching):
        schedule, max_cost, cost = spec.schedule, max(spec.max_batch_size, 1), _rows
    else:
        raise ValueError(f"model {spec.name} is not scheduled by dynamic batching")
    levels: PriorityLevels[InferRequest] = PriorityLevels(
        schedule.priority_levels,
        schedule.default_priority_level,
        schedule.default_queue_policy,
        schedule.priority_queue_policy,
        priority=lambda request: request.priority,
        timeout_us=lambda request: request.timeout_us,
    )
    batcher: Batcher[InferRequest, Result] = Batcher(
        spec.name,
        [execution.run for execution in executions],
        max_cost=max_cost,
        max_queue_cost=max(MAX_WAITING_ROWS, max_cost, levels.most_waiting * max_cost),
        cost=cost,
        max_queue_delay_s=schedule.max_queue_delay_us * 1e-6,
        preferred=[size for size in schedule.preferred_batch_size if 0 < size <= max_cost],
        alike=_kind(spec) if max_cost > 1 else None,
        levels=levels,
        preserve_ordering=schedule.preserve_ordering,
        together=responding_together,
        clock=clock,
        observer=observer,
    )
    return _BatchingScheduler(spec, batcher, statistics)


class _BatchingScheduler:
    """Submits requests to a batcher and answers what the batcher itself refuses."""

    def __init__(self, spec: ModelSpec, batcher: Batcher[InferRequest, Result], statistics: ModelStatistics) -> None:
        self.batcher = batcher
        self.statistics = statistics
        self._spec = spec
        self._most_rows = spec.max_batch_size or 1

    def submit(self, requests: Sequence[InferRequest]) -> None:
        """See `Scheduler`."""
        most = self._most_rows
        sent = 0
        for at, request in enumerate(requests):
            if request.batch_size > most:
                self._send(requests[sent:at])
                self._submit_large(request)
                sent = at + 1
        self._send(requests[sent:] if sent else requests)

    def close(self, *, drain: bool = True) -> None:
        """See `Scheduler`."""
        self.batcher.close(drain=drain)

    def refused(self, request: InferRequest, error: BatchError) -> InferError:
        """What a caller is told of what the batcher did, in Triton's words; the request is counted out."""
        self.statistics.left(1)
        if isinstance(error, DeadlineExpired):
            return unavailable("Request timeout expired")
        if isinstance(error, QueueFull):
            refusal = unavailable(f"{named(request.id)}Exceeds maximum queue size")
            refusal.retry_after_s = error.retry_after_s
            return refusal
        if isinstance(error, BatcherClosed):
            return unavailable(
                f"{named(request.id)}Server is stopping, scheduler for model has stopped accepting new inference "
                "requests"
            )
        return internal(str(error))

    def _send(self, requests: Sequence[InferRequest], *, together: bool = False) -> None:
        tickets = [_Ticket(self, request) for request in requests]
        self.batcher.send(requests, tickets, together=together)
        for ticket in tickets:
            if ticket.request.is_cancelled:  # before it had a number to be taken back by
                ticket.cancel()

    def _submit_large(self, request: InferRequest) -> None:
        if not splits(self._spec):
            self.statistics.left(1)
            request.respond(
                invalid_argument(
                    f"{named(request.id)}inference request batch-size must be <= {self._spec.max_batch_size} for "
                    f"'{self._spec.name}'"
                )
            )
            return
        parts = split_rows(request, self._most_rows)
        self.statistics.entered(len(parts) - 1)
        self._send(parts, together=True)


class _Ticket:
    """One request in the batcher: where its answer goes, and how it is taken back. See `Completion`."""

    __slots__ = ("number", "request", "scheduler")

    def __init__(self, scheduler: _BatchingScheduler, request: InferRequest) -> None:
        self.number = -1
        self.request = request
        self.scheduler = scheduler
        request.on_cancel = self.cancel

    def begin(self) -> bool:
        request = self.request
        request.on_cancel = None  # it is in the model's hands; nor may request and ticket keep each other alive
        if request.is_cancelled:
            self._give_up()
            return False
        return True

    def settle(self, result: Result | BaseException, *_times: float) -> None:
        if result is None:
            return  # the instance answers by itself
        request = self.request
        request.on_cancel = None
        if isinstance(result, BaseException):
            if request.is_done:
                return
            result = (
                self.scheduler.refused(request, result) if isinstance(result, BatchError) else as_infer_error(result)
            )
        request.respond(result)

    def cancel(self) -> None:
        if self.scheduler.batcher.withdraw(self.number):
            self._give_up()

    def _give_up(self) -> None:
        self.request.on_cancel = None
        self.scheduler.statistics.left(1)
        self.request.respond(cancelled("Request cancelled"))


def _one(request: InferRequest) -> int:  # noqa: ARG001
    return 1


def _rows(request: InferRequest) -> int:
    return request.batch_size


def _kind(spec: ModelSpec) -> Callable[[InferRequest], Hashable] | None:
    """What requests of one batch must share: the shapes of rows that may differ, and which optional inputs are there.

    None where the config leaves nothing to differ. Ragged inputs may have any shape beside each other.
    """
    shaped = [each.name for each in spec.inputs if -1 in each.dims and not each.ragged]
    optional = [each.name for each in spec.inputs if each.optional]
    if not optional:
        if not shaped:
            return None
        if len(shaped) == 1:
            (only,) = shaped
            return lambda request: request.inputs[only].shape[1:]
        return lambda request: tuple([request.inputs[name].shape[1:] for name in shaped])

    def kind(request: InferRequest) -> Hashable:
        inputs = request.inputs
        there = tuple([name in inputs for name in optional])
        return there, tuple([inputs[name].shape[1:] if name in inputs else None for name in shaped])

    return kind
