"""Implicit state: tensors that the server keeps for a sequence between its requests.

See https://github.com/triton-inference-server/server/blob/main/docs/user_guide/implicit_state_management.md
"""

from collections.abc import Mapping, Sequence

import numpy as np

from nextact_server.inference.infer_errors import InferError, invalid_argument
from nextact_server.inference.infer_request import InferRequest, InferResponse, ResponseSink
from nextact_server.inference.infer_spec import ModelSpec, SequenceState
from nextact_server.inference.tensors import DataType, Tensor

__all__ = ["ImplicitState", "StateSink"]


class ImplicitState:
    """A model's states: their first values, and how they are read from its responses.

    Args:
        spec: the model.
        states: its states.
        initial: first values by input name, of the state's dims without the batch axis; zeros for those not named,
            one element long where a dimension is variable.

    Raises:
        InferError: INVALID_ARG for a first value that does not fit its state.
    """

    def __init__(self, spec: ModelSpec, states: Sequence[SequenceState], initial: Mapping[str, Tensor]) -> None:
        self._pairs = [(state.output_name, state.input_name) for state in states]
        self._shown = {output.name for output in spec.outputs}
        self._initial: dict[str, Tensor] = {}
        for state in states:
            value = initial.get(state.input_name)
            value = _zeros(state) if value is None else _checked(state, value)
            self._initial[state.input_name] = value[np.newaxis] if spec.max_batch_size else value
        self.variable = [state.input_name for state in states if min(state.dims, default=0) < 0]
        """Names of state inputs whose shape may differ between sequences."""

    def __bool__(self) -> bool:
        return bool(self._pairs)

    def first(self) -> dict[str, Tensor]:
        """The state of a sequence that starts, by input name."""
        return {name: value.copy() for name, value in self._initial.items()}

    def shape(self, name: str, state: Mapping[str, Tensor] | None) -> tuple[int, ...]:
        """The shape of one state input; without a state, of the first."""
        return (self._initial if state is None else state)[name].shape

    def keep(self, request: InferRequest, response: InferResponse, state: dict[str, Tensor]) -> None:
        """Take the state outputs out of a response and into a sequence's state; what is missing stays as it was.

        They stay in the response too where they are outputs of the model that the request asks for.
        """
        outputs = response.outputs
        for output_name, input_name in self._pairs:
            value = outputs.get(output_name)
            if value is None:
                continue
            shown = output_name in self._shown and (not request.output_names or output_name in request.output_names)
            if not shown:
                del outputs[output_name]
            # A part of a batch would keep the whole of it in memory; what the caller gets the model may not change.
            state[input_name] = value.copy() if shown or value.base is not None else value


class StateSink:
    """Stands before the sink of a request that its model answers itself, and keeps the state that comes by."""

    def __init__(self, sink: ResponseSink, states: ImplicitState, state: dict[str, Tensor]) -> None:
        self._sink = sink
        self._states = states
        self._state = state

    def respond(self, request: InferRequest, response: InferResponse | InferError | None, final: bool) -> None:
        """Keep the state and pass the response on."""
        if isinstance(response, InferResponse):
            self._states.keep(request, response, self._state)
        self._sink.respond(request, response, final)


def _zeros(state: SequenceState) -> Tensor:
    shape = [1 if size < 0 else size for size in state.dims]
    return np.full(shape, b"" if state.datatype is DataType.BYTES else 0, state.datatype.numpy)


def _checked(state: SequenceState, value: Tensor) -> Tensor:
    fits = len(value.shape) == len(state.dims) and all(
        want in (-1, size) for want, size in zip(state.dims, value.shape, strict=True)
    )
    if fits and value.dtype == state.datatype.numpy:
        return value
    raise invalid_argument(
        f"initial state for state input '{state.input_name}' is {value.dtype}{list(value.shape)}, expected "
        f"{state.datatype.config_name}{list(state.dims)}"
    )
