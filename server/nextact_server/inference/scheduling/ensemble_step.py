"""One run of a step of an ensemble: the request to its model, and what came of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from nextact_server.inference.infer_errors import InferError
from nextact_server.inference.infer_request import InferRequest, InferResponse, Parameter
from nextact_server.inference.infer_spec import EnsembleStep, ModelSpec, TensorSpec
from nextact_server.inference.instance import StageTimes
from nextact_server.inference.scheduling.ensemble_check import dims_fit
from nextact_server.inference.tensors import Tensor

__all__ = ["EnsembleTensor", "SequencePlace", "StepOwner", "StepRun", "for_world"]


@dataclass(frozen=True, slots=True)
class SequencePlace:
    """The sequence that a tensor's request belongs to, and its place there."""

    id: int | str
    start: bool = False
    end: bool = False

    def parameters(self) -> dict[str, Parameter]:
        """As the parameters that Triton puts on an ensemble's responses."""
        return {"sequence_id": self.id, "sequence_start": self.start, "sequence_end": self.end}


@dataclass(slots=True)
class EnsembleTensor:
    """An ensemble tensor of one iteration.

    Attributes:
        array: None where nobody gave it: an optional input, or an output that a member left out.
        batch: rows of its batch axis; 0 if it came from a model that does not batch.
        place: the sequence its maker ran in; None for the ensemble's own inputs.
        left: how many will still take it.
    """

    array: Tensor | None
    batch: int
    place: SequencePlace | None
    left: int = 0


class StepOwner(Protocol):
    """Who ran a step."""

    def responded(self, run: "StepRun", response: InferResponse | InferError | None, final: bool) -> None:
        """The step's model answered."""


class StepRun:
    """A step with its inputs, and the sink of the request that it asks its model."""

    def __init__(
        self, owner: StepOwner, step: EnsembleStep, index: int, iteration: int, inputs: Mapping[str, EnsembleTensor]
    ) -> None:
        self.step = step
        self.index = index
        self.iteration = iteration
        self.is_decoupled = False
        self.times = StageTimes()
        self._owner = owner
        self._inputs = inputs
        self._request: InferRequest | None = None
        self._batch = 0
        self._place = SequencePlace(0)

    def request(self, member: ModelSpec, whole: InferRequest) -> InferRequest:
        """The request to the step's model: id, parameters, priority, timeout and sequence are those of the ensemble's.

        A member's response may have put what follows it into another sequence.
        """
        self.is_decoupled = member.decoupled
        batches = member.max_batch_size > 0
        dims = {tensor.name: tensor.dims for tensor in member.inputs}
        inputs = {}
        self._place = SequencePlace(whole.correlation_id, whole.sequence_start, whole.sequence_end)
        for name, tensor in self.step.inputs.items():
            value = self._inputs[tensor]
            if value.array is not None:
                inputs[name] = _reshaped(value.array, dims.get(name, ()), batches, value.batch)
            if value.place is not None:
                self._place = value.place
        self._inputs = {}
        rows = next((array.shape[0] for array in inputs.values() if array.ndim), 1) if batches else 1
        self._batch = rows if batches else 0
        self._request = request = InferRequest(
            inputs,
            self,
            batch_size=rows,
            id=whole.id,
            output_names=tuple(self.step.outputs),
            parameters=whole.parameters,
            priority=whole.priority,
            timeout_us=whole.timeout_us,
            correlation_id=self._place.id,
            sequence_start=self._place.start,
            sequence_end=self._place.end,
        )
        request.stages = self.times
        return request

    def respond(self, request: InferRequest, response: InferResponse | InferError | None, final: bool) -> None:  # noqa: ARG002
        """See `ResponseSink`."""
        if final:
            self._request = None  # request and run refer to each other
        self._owner.responded(self, response, final)

    def cancel(self) -> None:
        """Cancel the request, if it is not answered yet."""
        request = self._request
        if request is not None:
            request.cancel()

    def tensors(self, response: InferResponse) -> dict[str, EnsembleTensor]:
        """The ensemble tensors that a response brings; outputs that it left out are there, without an array."""
        place = _place(response.parameters, self._place)
        return {
            tensor: EnsembleTensor(response.outputs.get(name), self._batch, place)
            for name, tensor in self.step.outputs.items()
        }


def for_world(tensors: Iterable[TensorSpec], values: Mapping[str, EnsembleTensor], batches: bool) -> InferResponse:
    """The response of an ensemble from its output tensors."""
    response = InferResponse({})
    for tensor in tensors:
        value = values.get(tensor.name)
        if value is None or value.array is None:
            continue
        dims = tensor.dims if tensor.reshape is None else tensor.reshape
        response.outputs[tensor.name] = _reshaped(value.array, dims, batches, value.batch)
        if value.place is not None:
            response.parameters = value.place.parameters()
    return response


def _reshaped(array: Tensor, dims: Sequence[int], batches: bool, batch: int) -> Tensor:
    """Between a model that batches and one that does not: an axis of one row is added or taken where that makes it fit.

    `batch`: rows of the array's batch axis, 0 if it has none.
    """
    if batches and not batch and dims_fit(dims, array.shape):
        return array[None]
    if not batches and batch == 1 and not dims_fit(dims, array.shape):
        row: Tensor = array[0]
        return row
    return array


def _place(parameters: Mapping[str, Parameter], own: SequencePlace) -> SequencePlace:
    if not any(name in parameters for name in ("sequence_id", "sequence_start", "sequence_end")):
        return own
    id = parameters.get("sequence_id", own.id)
    start, end = parameters.get("sequence_start", False), parameters.get("sequence_end", False)
    return SequencePlace(id if isinstance(id, int | str) else own.id, start is True, end is True)
