"""`model_warmup`: made-up requests that every instance runs before its version takes over."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from nextact_server.inference.execution import as_infer_error
from nextact_server.inference.infer_check import check, named
from nextact_server.inference.infer_errors import InferError, invalid_argument
from nextact_server.inference.infer_request import InferRequest
from nextact_server.inference.infer_spec import ControlKind, ModelSpec, SequenceBatching
from nextact_server.inference.instance import ModelInstance, Result, StageTimes
from nextact_server.inference.tensors import DataType, Tensor
from nextact_server.repository.config import ModelConfig
from nextact_server.repository.initial_state import read_tensor, zeros
from nextact_server.repository.spec import data_type

__all__ = ["WARMUP_DIR", "warm_up"]

WARMUP_DIR = "warmup"


class _Answers:
    """The sink of a warm-up: remembers the first error, and when the last answer came."""

    def __init__(self, waiting: int) -> None:
        self.error: InferError | None = None
        self._waiting = waiting
        self._changed = threading.Condition()

    def respond(self, request: InferRequest, response: Result, final: bool) -> None:  # noqa: ARG002
        """Take one response."""
        with self._changed:
            if isinstance(response, InferError) and self.error is None:
                self.error = response
            if final:
                self._waiting -= 1
                self._changed.notify_all()

    def wait(self) -> None:
        """Block until every request has its final answer."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting <= 0)


def warm_up(
    config: ModelConfig,
    spec: ModelSpec,
    model_dir: Path,
    instances: Sequence[ModelInstance],
    states: Mapping[str, Tensor],
) -> None:
    """Run every sample of a configuration on every instance; what they do is not counted.

    A sample of batch_size n is one batch of n requests of one row. Control inputs and states (`states` are their first
    values) that a sample leaves out are those of a sequence's first request.

    Raises:
        InferError: a sample that does not fit the model, or that the model fails on.
    """
    for sample in config.model_warmup:
        rows = max(1, sample.batch_size)
        if rows > max(1, spec.max_batch_size):
            raise invalid_argument(
                f"warmup sample '{sample.name}' has batch_size {rows}, but max_batch_size of '{spec.name}' is "
                f"{spec.max_batch_size}"
            )
        inputs = {name: _tensor(name, given, spec, model_dir) for name, given in sorted(sample.inputs.items())}
        for instance in instances:
            for _ in range(max(1, sample.count)):
                error = _run(spec, instance, inputs, rows, states)
                if error is not None:
                    raise invalid_argument(f"failed to run warmup sample '{sample.name}': {error.message}; ")


def _tensor(name: str, given: ModelConfig, spec: ModelSpec, model_dir: Path) -> Tensor:
    if any(dim < 0 for dim in given.dims):
        raise invalid_argument(f"warmup setting expects all variable-size dimensions are specified for input '{name}'")
    try:
        datatype = data_type(given)
    except ValueError:
        expected = next((tensor.datatype.value for tensor in spec.inputs if tensor.name == name), "<invalid>")
        raise invalid_argument(
            f"{named('')}inference input '{name}' data-type is '<invalid>', but model '{spec.name}' expects "
            f"'{expected}'"
        ) from None
    shape = (1, *given.dims) if spec.max_batch_size else tuple(given.dims)
    choice = given.WhichOneof("input_data_type")
    if choice is None:
        raise invalid_argument(f"{named('')}warmup setting expects input '{name}' to have input_data_type set")
    if choice == "input_data_file":
        return read_tensor(model_dir / WARMUP_DIR / given.input_data_file, datatype, shape, f"{named('')}warmup")
    return _random(datatype, shape) if choice == "random_data" else zeros(datatype, shape)


def _random(datatype: DataType, shape: tuple[int, ...]) -> Tensor:
    """Values any model can take: fractions in [0, 1), whole numbers of 7 bits, and empty strings as in Triton."""
    generator = np.random.default_rng(0)
    if datatype is DataType.BYTES:
        return zeros(datatype, shape)
    if datatype is DataType.BOOL:
        return generator.integers(0, 2, shape).astype(np.bool_)
    if datatype in (DataType.FP16, DataType.FP32, DataType.FP64, DataType.BF16):
        return generator.random(shape).astype(datatype.numpy)
    return generator.integers(0, 128, shape).astype(datatype.numpy)


def _run(
    spec: ModelSpec, instance: ModelInstance, inputs: dict[str, Tensor], rows: int, states: Mapping[str, Tensor]
) -> InferError | None:
    answers = _Answers(rows)
    requests = [_request(spec, inputs, answers, states) for _ in range(rows)]
    try:
        results = instance.execute(requests, StageTimes())
        for request, result in zip(requests, results, strict=True):
            if result is not None:
                request.respond(result)
    except Exception as error:
        return as_infer_error(error)
    answers.wait()
    return answers.error


def _request(
    spec: ModelSpec, inputs: dict[str, Tensor], answers: _Answers, states: Mapping[str, Tensor]
) -> InferRequest:
    own = {name: tensor.copy() for name, tensor in inputs.items()}  # a model may write into its inputs
    schedule = spec.schedule
    if not isinstance(schedule, SequenceBatching):
        check(spec, own, ())
        return InferRequest(own, answers)
    made = _sequence_inputs(spec, schedule, states)
    check(spec, {name: tensor for name, tensor in own.items() if name not in made}, ())
    return InferRequest(made | own, answers, correlation_id=1, sequence_start=True)


def _sequence_inputs(spec: ModelSpec, schedule: SequenceBatching, states: Mapping[str, Tensor]) -> dict[str, Tensor]:
    from nextact_server.inference.scheduling.sequence_controls import ControlInputs
    from nextact_server.inference.scheduling.sequence_state import ImplicitState

    controls = ControlInputs(schedule.controls, batching=spec.max_batch_size > 0)
    made = ImplicitState(spec, schedule.states, states).first()
    ids = [control.datatype for control in schedule.controls if control.kind is ControlKind.CORRID]
    correlation_id = "1" if DataType.BYTES in ids else 1
    first = InferRequest({}, _Answers(0), correlation_id=correlation_id, sequence_start=True)
    controls.add(made, first, controls.told_id(correlation_id))
    return made
