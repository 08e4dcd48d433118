"""One request on its way through the steps of an ensemble."""

import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from nextact_server.inference.execution import as_infer_error
from nextact_server.inference.infer_check import named
from nextact_server.inference.infer_errors import InferError, cancelled, invalid_argument
from nextact_server.inference.infer_request import InferRequest, InferResponse
from nextact_server.inference.infer_spec import ModelSpec
from nextact_server.inference.instance import ModelDoor, StageTimes
from nextact_server.inference.scheduling.ensemble_plan import EnsemblePlan, steps_of
from nextact_server.inference.scheduling.ensemble_step import EnsembleTensor, StepRun, for_world

__all__ = ["EnsembleFlow", "FlowListener"]


class FlowListener(Protocol):
    """Is told of the end of flows."""

    def finished(self, flow: "EnsembleFlow", started_ns: int, times: StageTimes) -> None:
        """All went well, and took its members so long together; the final response follows."""

    def left(self, flow: "EnsembleFlow") -> None:
        """The final response was given."""


class EnsembleFlow:
    """Holds the tensors of a request until the last step that takes them has them.

    Where a member is decoupled, each of its responses is an iteration of what follows: a step runs once for each, and
    the ensemble answers in their order. No lock is held while a member is asked or the caller answered.
    """

    def __init__(
        self,
        spec: ModelSpec,
        models: ModelDoor,
        request: InferRequest,
        plan: EnsemblePlan,
        listener: FlowListener,
        *,
        decoupled: bool,
    ) -> None:
        self.request = request
        self._spec = spec
        self._steps = steps_of(spec)
        self._models = models
        self._plan = plan
        self._listener = listener
        self._is_decoupled = decoupled
        self._lock = threading.Lock()
        self._started_ns = time.monotonic_ns()
        self._times = StageTimes()
        self._tensors: dict[str, dict[int, EnsembleTensor]] = {}
        self._iterations: dict[int, int] = {}  # per decoupled step, how many responses it gave
        self._running: set[StepRun] = set()
        self._in_flight = 0
        self._complete: dict[int, InferResponse] = {}
        self._next = 0
        self._outgoing: deque[tuple[InferResponse | InferError | None, bool]] = deque()
        self._is_delivering = False
        self._is_over = False

    def start(self) -> None:
        """Run the steps whose inputs the request brings."""
        request = self.request
        request.on_cancel = self.cancel
        batch = request.batch_size if self._spec.max_batch_size else 0
        given = {
            tensor.name: EnsembleTensor(request.inputs.get(tensor.name), batch, None) for tensor in self._spec.inputs
        }
        with self._lock:
            runs = [StepRun(self, self._steps[index], index, 0, {}) for index in self._plan.first]
            runs += self._put(given, 0)
            self._in_flight = len(runs)
            self._settle()
        self._go_on(runs)

    def cancel(self) -> None:
        """The caller went away: cancel what runs; nothing more is started."""
        with self._lock:
            running = list(self._running)
        for run in running:
            run.cancel()

    def fail(self, error: InferError) -> None:
        """Answer with an error, unless the answer was given, and cancel what runs."""
        told = InferError(error.code, f"in ensemble '{self._spec.name}', {error.message}", error.retry_after_s)
        with self._lock:
            if self._is_over:
                return
            self._end(told)
        self._deliver()
        self.cancel()

    def responded(self, run: StepRun, response: InferResponse | InferError | None, final: bool) -> None:
        """See `StepOwner`."""
        runs: list[StepRun] = []
        with self._lock:
            if final:
                self._in_flight -= 1
                self._running.discard(run)
                self._times.add(run.times)
            if self._is_over:
                return
            if not isinstance(response, InferError):
                if response is not None:
                    runs = self._put(run.tensors(response), self._iteration(run))
                    self._in_flight += len(runs)
                self._settle()
        if isinstance(response, InferError):
            self.fail(response)
        else:
            self._go_on(runs)

    def _go_on(self, runs: Iterable[StepRun]) -> None:
        self._deliver()
        for run in runs:
            self._ask(run)

    def _ask(self, run: StepRun) -> None:
        step = run.step
        try:
            self._check_cancelled()
            asked = run.request(self._models.spec(step.model, step.version), self.request)
            with self._lock:
                if self._is_over:
                    return
                self._running.add(run)
            self._models.infer(step.model, step.version, asked)
        except Exception as error:
            self.fail(as_infer_error(error))
            return
        if self.request.is_cancelled:
            run.cancel()  # `cancel` may have come before the step was among those that run

    def _check_cancelled(self) -> None:
        if self.request.is_cancelled:
            raise cancelled("Request cancelled")

    def _iteration(self, run: StepRun) -> int:
        """That of what a step's response brings: its inputs', but a decoupled member counts its responses."""
        if not run.is_decoupled:
            return run.iteration
        number = self._iterations.get(run.index, 0)
        self._iterations[run.index] = number + 1
        return number

    def _put(self, tensors: Mapping[str, EnsembleTensor], iteration: int) -> list[StepRun]:
        """Note tensors; return the steps that now have all they take, and note the response if it is complete."""
        waiting: dict[int, None] = {}
        for name, tensor in tensors.items():
            tensor.left = self._plan.uses.get(name, 0)
            if tensor.left:
                self._tensors.setdefault(name, {})[iteration] = tensor
                waiting.update(dict.fromkeys(self._plan.consumers.get(name, ())))
        runs = []
        for index in waiting:
            names = tuple(dict.fromkeys(self._steps[index].inputs.values()))
            if self._has(names, iteration):
                runs.append(StepRun(self, self._steps[index], index, iteration, self._take(names, iteration)))
        outputs = self._plan.outputs
        if any(name in tensors for name in outputs) and self._has(outputs, iteration):
            taken = self._take(outputs, iteration)
            self._complete[iteration] = for_world(self._spec.outputs, taken, self._spec.max_batch_size > 0)
        return runs

    def _has(self, names: Sequence[str], iteration: int) -> bool:
        return all(iteration in self._tensors.get(name, ()) for name in names)

    def _take(self, names: Sequence[str], iteration: int) -> dict[str, EnsembleTensor]:
        taken = {}
        for name in names:
            tensor = taken[name] = self._tensors[name][iteration]
            tensor.left -= 1
            if not tensor.left:
                del self._tensors[name][iteration]
        return taken

    def _settle(self) -> None:
        """Queue what can be answered, in order; and the end, if nothing runs any more."""
        while self._next in self._complete:
            self._outgoing.append((self._complete.pop(self._next), False))
            self._next += 1
        if self._in_flight:
            return
        if self._outgoing:
            self._is_over = True
            self._outgoing[-1] = (self._outgoing[-1][0], True)
        elif self._next or self._is_decoupled:
            self._end(None)
        else:
            self._end(
                invalid_argument(
                    f"in ensemble '{self._spec.name}', {named(self.request.id)}unexpected deadlock, at least one "
                    "output is not set while no more ensemble steps can be made"
                )
            )

    def _end(self, response: InferError | None) -> None:
        self._is_over = True
        self._outgoing.append((response, True))
        self._tensors.clear()
        self._complete.clear()

    def _deliver(self) -> None:
        """Give out what is queued: one thread at a time, so that it stays in order."""
        while True:
            with self._lock:
                if self._is_delivering or not self._outgoing:
                    return
                self._is_delivering = True
                response, final = self._outgoing.popleft()
            if final:
                self.request.on_cancel = None
                if not isinstance(response, InferError):
                    self._listener.finished(self, self._started_ns, self._times)
            self.request.respond(response, final=final)
            if final:
                self._listener.left(self)
            with self._lock:
                self._is_delivering = False
