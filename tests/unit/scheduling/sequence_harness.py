"""An accumulating model that computes only when a test lets it, callers that remember, and a scheduler around them."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nextact_server.inference.clock import Clock, ManualClock
from nextact_server.inference.execution import Execution
from nextact_server.inference.infer_errors import InferError
from nextact_server.inference.infer_request import InferRequest, InferResponse
from nextact_server.inference.infer_spec import (
    ControlKind,
    ModelSpec,
    SequenceBatching,
    SequenceControl,
    SequenceState,
    TensorSpec,
)
from nextact_server.inference.instance import Result, StageTimes
from nextact_server.inference.scheduling.sequence import SequenceScheduler
from nextact_server.inference.statistics import ModelStatistics
from nextact_server.inference.tensors import DataType

TIMEOUT = 10.0  # real seconds after which a test that hangs is told so

CONTROLS = (
    SequenceControl("START", ControlKind.START, DataType.INT32),
    SequenceControl("END", ControlKind.END, DataType.INT32),
    SequenceControl("READY", ControlKind.READY, DataType.FP32),
    SequenceControl("CORRID", ControlKind.CORRID, DataType.UINT64),
)
STATE = SequenceState("SUM_IN", "SUM_OUT", DataType.INT32, (1,))


def model_spec(
    batching: SequenceBatching, *, max_batch_size: int = 4, dims: tuple[int, ...] = (1,), **more: Any
) -> ModelSpec:
    """A model with input IN and output OUT, INT32."""
    return ModelSpec(
        "m",
        1,
        "",
        more.pop("inputs", (TensorSpec("IN", DataType.INT32, dims),)),
        more.pop("outputs", (TensorSpec("OUT", DataType.INT32, dims),)),
        max_batch_size=max_batch_size,
        schedule=batching,
        **more,
    )


class Accumulator:
    """Adds up what each sequence sends; by its own memory (START and CORRID), or with `implicit` by SUM_IN, SUM_OUT."""

    retry_safe = False

    def __init__(self, *, implicit: bool = False) -> None:
        self.batches: list[list[dict[str, Any]]] = []
        self.fail: set[int] = set()
        self._implicit = implicit
        self._sums: dict[Any, int] = {}
        self._entered = threading.Semaphore(0)
        self._open = threading.Event()
        self._open.set()

    def execute(self, requests: Sequence[InferRequest], times: StageTimes) -> Sequence[Result]:
        self.batches.append([{name: tensor.tolist() for name, tensor in r.inputs.items()} for r in requests])
        self._entered.release()
        assert self._open.wait(6 * TIMEOUT)
        if any(value in self.fail for request in requests for value in request.inputs["IN"].flat):
            raise RuntimeError("boom")
        return [self._one(request) for request in requests]

    def close(self) -> None: ...

    def hold(self) -> None:
        """Keep the next batch in the model until `release`."""
        self._open.clear()

    def release(self) -> None:
        """Let the model compute."""
        self._open.set()

    def wait_entered(self) -> None:
        """Block until one more batch than before came in."""
        assert self._entered.acquire(timeout=TIMEOUT)

    def values(self) -> list[list[int]]:
        """The first number of every row of every batch."""
        return [[row["IN"][0][0] for row in batch] for batch in self.batches]

    def _one(self, request: InferRequest) -> InferResponse:
        inputs = request.inputs
        if self._implicit:
            total = inputs["SUM_IN"] + inputs["IN"]
            return InferResponse({"OUT": total, "SUM_OUT": total})
        if "CORRID" not in inputs or ("READY" in inputs and not inputs["READY"].item()):
            return InferResponse({"OUT": inputs["IN"]})
        who = inputs["CORRID"].item()
        if inputs["START"].item():
            self._sums[who] = 0
        self._sums[who] += int(inputs["IN"].item())
        return InferResponse({"OUT": np.full((1, 1), self._sums[who], np.int32)})


@dataclass(eq=False)
class Call:
    """A request and what was answered."""

    request: InferRequest
    answers: list[InferResponse | InferError | None] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def respond(self, request: InferRequest, response: InferResponse | InferError | None, final: bool) -> None:
        self.answers.append(response)
        if final:
            self.done.set()

    def answer(self) -> InferResponse | InferError | None:
        """The one answer, once it is there."""
        assert self.done.wait(TIMEOUT), "not answered"
        assert len(self.answers) == 1
        return self.answers[0]

    def out(self) -> int:
        """The number in the answer's OUT."""
        response = self.answer()
        assert isinstance(response, InferResponse), response
        return int(response.outputs["OUT"].flat[0])

    def error(self) -> InferError:
        """The error that it was answered with."""
        response = self.answer()
        assert isinstance(response, InferError), response
        return response


@dataclass(eq=False)
class Harness:
    """A scheduler, its models, clock and statistics."""

    scheduler: SequenceScheduler
    models: list[Accumulator]
    statistics: ModelStatistics
    clock: ManualClock

    @property
    def model(self) -> Accumulator:
        """The first instance's."""
        return self.models[0]

    def call(self, id: int | str, value: int | Sequence[int] = 1, how: str = "", **more: Any) -> Call:
        """Submit a request; `how` says "start", "end" or both."""
        return self.calls((id, value, how), **more)[0]

    def calls(self, *requests: tuple[int | str, int | Sequence[int], str], **more: Any) -> list[Call]:
        """Submit requests that arrive together."""
        made = [_call(*request, **more) for request in requests]
        self.statistics.entered(len(made))
        self.scheduler.submit([call.request for call in made])
        return made

    def pending(self) -> int:
        """How many requests wait, by the statistics."""
        return self.statistics.snapshot().pending


def _call(id: int | str, value: int | Sequence[int], how: str, **more: Any) -> Call:
    values = [value] if isinstance(value, int) else list(value)
    call = Call(None)  # type: ignore[arg-type]
    call.request = InferRequest(
        {"IN": np.array([values], np.int32)},
        call,
        correlation_id=id,
        sequence_start="start" in how,
        sequence_end="end" in how,
        **more,
    )
    return call


@contextmanager
def harness(
    spec: ModelSpec, *, instances: int = 1, models: Sequence[Any] = (), clock: Clock | None = None, **more: Any
) -> Iterator[Harness]:
    """A running scheduler; closed, and all its threads gone, at the end."""
    running = set(threading.enumerate())
    models = list(models) or [Accumulator(implicit=bool(spec.schedule.states)) for _ in range(instances)]  # type: ignore[union-attr]
    statistics = ModelStatistics()
    clock = clock or ManualClock()
    scheduler = SequenceScheduler(
        spec, [Execution(model, statistics) for model in models], statistics, clock=clock, **more
    )
    made = Harness(scheduler, list(models), statistics, clock)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        for model in made.models:
            model.release()
        scheduler.close()
        assert not [t for t in threading.enumerate() if t.name.startswith("sequence-") and t not in running]
        assert made.pending() == 0
