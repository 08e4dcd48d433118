"""An instance that computes when a test lets it, a sink that remembers, and a scheduler around them."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from nextact_server.inference.clock import ManualClock
from nextact_server.inference.execution import Execution
from nextact_server.inference.infer_errors import InferError
from nextact_server.inference.infer_request import InferRequest, InferResponse
from nextact_server.inference.infer_spec import DynamicBatching, ModelSpec, TensorSpec
from nextact_server.inference.scheduling.dynamic import make_batching_scheduler
from nextact_server.inference.statistics import ModelStatistics
from nextact_server.inference.tensors import DataType

TIMEOUT = 10.0  # real seconds after which a test that hangs is told so


class Doubler:
    """Doubles the input IN; keeps the ids of every batch it ran."""

    def __init__(self, *, retry_safe: bool = True) -> None:
        self.retry_safe = retry_safe
        self.batches: list[list[str]] = []
        self._entered = threading.Semaphore(0)
        self._open = threading.Event()
        self._open.set()

    def execute(self, requests: Sequence[InferRequest], times: Any) -> list[Any]:
        self.batches.append([request.id for request in requests])
        self._entered.release()
        assert self._open.wait(6 * TIMEOUT)
        if any(request.id == "raises" for request in requests):
            raise ValueError("cannot compute")
        return [self.answer(request) for request in requests]

    def answer(self, request: InferRequest) -> Any:
        return InferResponse({"OUT": request.inputs["IN"] * 2}, {"rows": request.batch_size})

    def close(self) -> None:
        pass

    def hold(self) -> None:
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    def wait_entered(self) -> None:
        assert self._entered.acquire(timeout=TIMEOUT)


class Sink:
    """Keeps every response of every request, by the request's id."""

    def __init__(self) -> None:
        self.responses: dict[str, list[Any]] = {}
        self.order: list[str] = []
        self._changed = threading.Condition()

    def respond(self, request: InferRequest, response: Any, final: bool) -> None:
        with self._changed:
            self.responses.setdefault(request.id, []).append(response)
            self.order.append(request.id)
            self._changed.notify_all()

    def answer(self, name: str) -> Any:
        """The only response to a request, once it is there."""
        with self._changed:
            assert self._changed.wait_for(lambda: name in self.responses, TIMEOUT), f"{name} was not answered"
            (only,) = self.responses[name]
            return only


class Bench:
    """A scheduler with its instances, clock, statistics and sink."""

    def __init__(self, spec: ModelSpec, instances: Sequence[Any]) -> None:
        self.spec = spec
        self.instances = instances
        self.instance = instances[0]
        self.clock = ManualClock(now=1000.7)
        self.sink = Sink()
        self.statistics = ModelStatistics()
        executions = [Execution(instance, self.statistics) for instance in instances]
        self.scheduler = make_batching_scheduler(spec, executions, self.statistics, clock=self.clock)

    def request(self, name: str, rows: int = 1, width: int = 2, **settings: Any) -> InferRequest:
        first = float(len(name))
        data = np.arange(rows * width, dtype=np.float32).reshape(rows, width) + first
        return InferRequest({"IN": data}, self.sink, id=name, batch_size=rows, **settings)

    def submit(self, *requests: InferRequest) -> None:
        """Submit requests together, counted in as a served model does."""
        self.statistics.entered(len(requests))
        self.scheduler.submit(requests)

    def send(self, name: str, rows: int = 1, width: int = 2, **settings: Any) -> InferRequest:
        request = self.request(name, rows, width, **settings)
        self.submit(request)
        return request

    def occupy(self) -> None:
        """Hold a request in the instance, so that whatever comes next waits."""
        self.instance.hold()
        self.send("first")
        self.instance.wait_entered()

    def doubled(self, name: str, rows: int = 1, width: int = 2) -> None:
        """Check that a request was answered with its input doubled."""
        response = self.sink.answer(name)
        assert isinstance(response, InferResponse), response
        np.testing.assert_array_equal(response.outputs["OUT"], self.request(name, rows, width).inputs["IN"] * 2)

    def error(self, name: str) -> tuple[str, str]:
        """Code and message that a request was answered with."""
        response = self.sink.answer(name)
        assert isinstance(response, InferError), response
        return response.code.value, response.message


def spec_of(schedule: Any = None, *, most: int = 4, dims: tuple[int, ...] = (2,), **settings: Any) -> ModelSpec:
    inputs = settings.pop("inputs", (TensorSpec("IN", DataType.FP32, dims),))
    outputs = (TensorSpec("OUT", DataType.FP32, dims),)
    return ModelSpec("toy", 1, "python", inputs, outputs, max_batch_size=most, schedule=schedule, **settings)


@contextmanager
def bench(schedule: Any = DynamicBatching(), *, instances: Sequence[Any] = (), **settings: Any) -> Iterator[Bench]:  # noqa: B008
    """Give a bench and close it, whatever state the test left its instances in; nothing may then be pending."""
    built = Bench(spec_of(schedule, **settings), instances or [Doubler()])
    try:
        yield built
    finally:
        for instance in built.instances:
            instance.release()
        built.scheduler.close(drain=False)
    assert built.statistics.snapshot().pending == 0
