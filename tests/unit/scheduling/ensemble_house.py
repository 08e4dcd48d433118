"""Models of an ensemble without a server: functions of arrays, answered at once, by hand or on threads."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event
from typing import Any

import numpy as np

from nextact_server.inference.infer_errors import InferError, not_found
from nextact_server.inference.infer_request import InferRequest, InferResponse
from nextact_server.inference.infer_spec import EnsembleStep, ModelSpec, TensorSpec
from nextact_server.inference.instance import StageTimes
from nextact_server.inference.scheduling.ensemble import EnsembleScheduler
from nextact_server.inference.statistics import ModelStatistics
from nextact_server.inference.tensors import DataType, Tensor

FP32 = DataType.FP32


def tensors(*names: str, dims: tuple[int, ...] = (-1,), **more: Any) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, FP32, dims, **more) for name in names)


def model(name: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], **more: Any) -> ModelSpec:
    return ModelSpec(name, 1, "", tuple(inputs), tuple(outputs), **({"max_batch_size": 8} | more))


def step(name: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> EnsembleStep:
    return EnsembleStep(name, "", inputs, outputs)


def ensemble(inputs: Sequence[str], outputs: Sequence[str], *steps: EnsembleStep, **more: Any) -> ModelSpec:
    return model("ens", tensors(*inputs), tensors(*outputs), schedule=steps, **more)


@dataclass
class House:
    """A `ModelDoor`. `answers` respond to a request; a model without one is answered by hand, from `asked`."""

    specs: dict[str, ModelSpec] = field(default_factory=dict)
    answers: dict[str, Callable[[InferRequest], None]] = field(default_factory=dict)
    asked: list[tuple[str, InferRequest]] = field(default_factory=list)
    pool: ThreadPoolExecutor | None = None

    def add(self, spec: ModelSpec, answer: Callable[[InferRequest], None] | None = None) -> None:
        self.specs[spec.name] = spec
        if answer is not None:
            self.answers[spec.name] = answer

    def spec(self, name: str, version: str) -> ModelSpec:
        if name not in self.specs:
            raise not_found(f"Request for unknown model: '{name}' is not found")
        return self.specs[name]

    def infer(self, name: str, version: str, request: InferRequest) -> None:
        self.spec(name, version)
        self.asked.append((name, request))
        answer = self.answers.get(name)
        if answer is None:
            return
        if self.pool is not None:
            self.pool.submit(answer, request)
        else:
            answer(request)

    def is_ready(self, name: str, version: str = "") -> bool:
        return name in self.specs

    def load(self, name: str, config_json: str | None = None, files: Mapping[str, bytes] | None = None) -> None:
        raise AssertionError("an ensemble loads nothing")

    def unload(self, name: str, *, unload_dependents: bool = False) -> None:
        raise AssertionError("an ensemble unloads nothing")

    def of(self, name: str) -> InferRequest:
        (found,) = (request for asked, request in self.asked if asked == name)
        return found


class Collected:
    """Keeps what a request is answered."""

    def __init__(self) -> None:
        self.responses: list[tuple[InferResponse | InferError | None, bool]] = []
        self.done = Event()

    def respond(self, request: InferRequest, response: InferResponse | InferError | None, final: bool) -> None:
        self.responses.append((response, final))
        if final:
            self.done.set()

    @property
    def outputs(self) -> dict[str, Any]:
        assert self.done.wait(10)
        ((response, final),) = self.responses
        assert final
        assert isinstance(response, InferResponse), response
        return {name: array.tolist() for name, array in response.outputs.items()}

    @property
    def error(self) -> InferError:
        assert self.done.wait(10)
        ((response, final),) = self.responses
        assert final
        assert isinstance(response, InferError)
        return response


def maps(function: Callable[..., Mapping[str, Tensor]]) -> Callable[[InferRequest], None]:
    """A member that gives these outputs of its inputs, and is charged a run of 1, 2 and 3 ns for it."""

    def answer(request: InferRequest) -> None:
        if request.stages is not None:
            times = StageTimes()
            times.input_ns, times.infer_ns, times.output_ns = 1, 2, 3
            request.stages.add(times)
        outputs = function(**request.inputs)
        asked = request.output_names or outputs
        request.respond(InferResponse({name: outputs[name] for name in outputs if name in asked}))

    return answer


def floats(*rows: Sequence[float]) -> Tensor:
    return np.array(rows, np.float32)


def ask(
    scheduler: EnsembleScheduler, statistics: ModelStatistics, inputs: dict[str, Tensor], **more: Any
) -> tuple[InferRequest, Collected]:
    sink = Collected()
    rows = next(iter(inputs.values())).shape[0] if inputs else 1
    request = InferRequest(inputs, sink, **({"batch_size": rows} | more))
    statistics.entered(1)
    scheduler.submit([request])
    return request, sink


def opened(spec: ModelSpec, house: House) -> tuple[EnsembleScheduler, ModelStatistics]:
    statistics = ModelStatistics()
    return EnsembleScheduler(spec, house, statistics), statistics
