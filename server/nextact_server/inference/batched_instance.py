"""What models that compute on whole batches share: requests gathered into one batch, its outputs given back to each."""

import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from nextact_server.inference.execution import as_infer_error
from nextact_server.inference.infer_errors import InferError, internal
from nextact_server.inference.infer_request import InferRequest, InferResponse
from nextact_server.inference.infer_spec import ModelSpec, SequenceBatching, TensorSpec
from nextact_server.inference.instance import Result, StageTimes
from nextact_server.inference.ragged_batch import Lengths, batch_inputs, flat, padded, padded_lengths
from nextact_server.inference.reshaping import from_model_shape, to_model_shape
from nextact_server.inference.tensors import Tensor

__all__ = ["BatchedInstance"]

VARIABLE = -1


class BatchedInstance:
    """A `ModelInstance` around `run`, which takes and gives tensors by name, the batch axis included.

    A lone request's tensors reach `run` as they are, without a copy and possibly read-only; several are joined by one
    concatenation each, and their outputs are views into the batch's. Requests that cannot share a batch (other inputs
    left out, other lengths of an input that is not ragged) run one batch after the other. A model that does not batch
    runs once per request.
    """

    retry_safe = True

    def __init__(
        self,
        spec: ModelSpec,
        run: Callable[[dict[str, Tensor]], dict[str, Tensor]],
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self._spec = spec
        self._run = run
        self._close = close
        self._axes = 1 if spec.max_batch_size else 0
        self._inputs = {tensor.name: tensor for tensor in spec.inputs}
        self._reshaped = [tensor for tensor in spec.inputs if tensor.reshape is not None]
        self._may_differ = any(tensor.optional or VARIABLE in tensor.dims for tensor in spec.inputs)
        self._is_flat = bool(spec.batch_inputs)
        self._is_ragged = any(tensor.ragged for tensor in spec.inputs)
        states = spec.schedule.states if isinstance(spec.schedule, SequenceBatching) else ()
        self._states = {
            state.output_name: TensorSpec(state.output_name, state.datatype, state.dims) for state in states
        }
        self._outputs = self._states | {tensor.name: tensor for tensor in spec.outputs}

    def execute(self, requests: Sequence[InferRequest], times: StageTimes) -> Sequence[Result]:
        """See `ModelInstance`. Raises what `run` raises, and InferError for outputs that are not as configured."""
        if not self._axes:
            return [self._alone(request, times) for request in requests]
        if len(requests) == 1 or not self._may_differ:
            return self._together(requests, times)
        groups: dict[Hashable, list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            groups[self._likeness(request)].append(index)
        if len(groups) == 1:
            return self._together(requests, times)
        results: list[Result] = [None] * len(requests)
        for indices in groups.values():
            part = self._together([requests[index] for index in indices], times)
            for index, result in zip(indices, part, strict=True):
                results[index] = result
        return results

    def close(self) -> None:
        """Free the model."""
        self._close()

    def _alone(self, request: InferRequest, times: StageTimes) -> Result:
        try:
            return self._together([request], times)[0]
        except Exception as error:
            # Others in this call had their answers already, and must not run again.
            return as_infer_error(error)

    def _likeness(self, request: InferRequest) -> Hashable:
        """Equal for requests that may share a batch."""
        return frozenset((name, self._fixed_shape(name, array)) for name, array in request.inputs.items())

    def _fixed_shape(self, name: str, array: Tensor) -> tuple[int, ...]:
        shape = array.shape[1:]
        spec = self._inputs.get(name)
        if spec is None or not spec.ragged:
            return shape
        if self._is_flat:
            return ()
        return tuple(VARIABLE if dim == VARIABLE else size for size, dim in zip(shape, spec.dims, strict=True))

    def _together(self, requests: Sequence[InferRequest], times: StageTimes) -> list[Result]:
        began = time.monotonic_ns()
        inputs = self._gathered(requests)
        gathered = time.monotonic_ns()
        outputs = self._run(inputs)
        ran = time.monotonic_ns()
        results = self._scattered(outputs, requests)
        times.input_ns += gathered - began
        times.infer_ns += ran - gathered
        times.output_ns += time.monotonic_ns() - ran
        return results

    def _gathered(self, requests: Sequence[InferRequest]) -> dict[str, Tensor]:
        if len(requests) == 1:
            inputs = dict(requests[0].inputs)
            if self._is_flat:
                inputs = {name: array.reshape(-1) if self._ragged(name) else array for name, array in inputs.items()}
        else:
            inputs = {name: self._joined(name, requests) for name in requests[0].inputs}
        for spec in self._reshaped:
            if spec.name in inputs and not (self._is_flat and spec.ragged):
                inputs[spec.name] = to_model_shape(inputs[spec.name], spec, self._axes)
        if self._is_flat:
            inputs.update(batch_inputs(self._spec.batch_inputs, requests))
        return inputs

    def _joined(self, name: str, requests: Sequence[InferRequest]) -> Tensor:
        arrays = [request.inputs[name] for request in requests]
        if not self._ragged(name):
            return np.concatenate(arrays)
        return flat(arrays) if self._is_flat else padded(arrays)

    def _ragged(self, name: str) -> bool:
        return name in self._inputs and self._inputs[name].ragged

    def _scattered(self, outputs: dict[str, Tensor], requests: Sequence[InferRequest]) -> list[Result]:
        rows = sum(request.batch_size for request in requests) if self._axes else 0
        asked = self._asked(requests)
        checked = {name: self._checked(spec, outputs.get(name), rows) for name, spec in asked.items()}
        if len(requests) == 1:
            return [InferResponse(checked)]
        padding = padded_lengths(self._spec, requests) if self._is_ragged and not self._is_flat else {}
        results: list[Result] = []
        start = 0
        for index, request in enumerate(requests):
            end = start + request.batch_size
            names = request.output_names
            part = {
                name: array[start:end]
                for name, array in checked.items()
                if not names or name in names or name in self._states
            }
            if padding:
                part = {name: self._cut(asked[name], array, padding, index) for name, array in part.items()}
            results.append(InferResponse(part))
            start = end
        return results

    def _asked(self, requests: Sequence[InferRequest]) -> dict[str, TensorSpec]:
        """What any of the requests asks for, in the configuration's order, and always the sequence's state."""
        names: set[str] = set()
        for request in requests:
            if not request.output_names:
                return self._outputs
            names.update(request.output_names)
        return {name: spec for name, spec in self._outputs.items() if name in names or name in self._states}

    def _checked(self, spec: TensorSpec, array: Tensor | None, rows: int) -> Tensor:
        if array is None:
            raise self._fault(spec, "is missing from what the model gave")
        if array.dtype != spec.datatype.numpy:
            raise self._fault(spec, f"is configured as {spec.datatype.config_name}, and the model gave {array.dtype}")
        if self._axes and (array.ndim == 0 or array.shape[0] != rows):
            raise self._fault(spec, f"has shape {list(array.shape)} for a batch of {rows}")
        if not self._axes and array.ndim == 0 and spec.dims == (1,):
            return array.reshape(1)
        try:
            return from_model_shape(array, spec, self._axes)
        except ValueError as error:
            raise self._fault(spec, str(error)) from None

    def _fault(self, spec: TensorSpec, what: str) -> InferError:
        return internal(f"output '{spec.name}' of model '{self._spec.name}' {what}")

    @staticmethod
    def _cut(spec: TensorSpec, part: Tensor, padding: Lengths, index: int) -> Tensor:
        for axis, lengths in padding.items():
            varies = axis < len(spec.dims) and spec.dims[axis] == VARIABLE and spec.reshape is None
            if varies and part.shape[1 + axis] == max(lengths):
                part = part[(slice(None),) * (1 + axis) + (slice(lengths[index]),)]
        return part
