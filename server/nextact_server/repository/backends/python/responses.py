"""`pb_utils.InferenceResponse`: what a model answers with, and what it gets from another."""

import json
from collections.abc import Collection, Mapping, Sequence

from nextact_server.inference.infer_errors import InferError
from nextact_server.inference.infer_request import NO_PARAMETERS, InferRequest, InferResponse, Parameter
from nextact_server.repository.backends.python.errors import (
    TritonError,
    TritonModelException,
    incompatible,
    infer_error,
    triton_error,
)
from nextact_server.repository.backends.python.tensors import Tensor, as_bytes, shared_tensor

__all__ = ["InferenceResponse", "OutputNames", "answer", "checked_parameters", "received"]

_SIGNATURE = (
    "c_python_backend_utils.InferenceResponse(output_tensors: List[c_python_backend_utils.Tensor] = [], "
    "error: c_python_backend_utils.TritonError = None, parameters: dict = None)"
)
_NO_TENSORS: list[Tensor] = []
_INT64 = 2**63


class InferenceResponse:
    """Output tensors, or an error, and parameters (which Triton 2.51 does not take yet)."""

    __module__ = "c_python_backend_utils"  # as it is called in messages that Triton words

    __slots__ = ("_error", "_parameters", "_tensors")

    def __init__(
        self,
        output_tensors: Sequence[Tensor] = _NO_TENSORS,
        error: TritonError | None = None,
        parameters: Mapping[str, Parameter] | None = None,
    ) -> None:
        is_right = isinstance(output_tensors, (list, tuple)) and (error is None or isinstance(error, TritonError))
        for tensor in output_tensors if is_right else ():
            is_right = is_right and isinstance(tensor, Tensor)
        if not is_right:
            raise incompatible(_SIGNATURE, output_tensors, error)
        self._tensors = output_tensors
        self._error = error
        self._parameters = NO_PARAMETERS if parameters is None else checked_parameters(parameters, floats=True)

    def output_tensors(self) -> list[Tensor]:
        """Its tensors; none where it is an error."""
        return list(self._tensors)

    def has_error(self) -> bool:
        """Whether it is an error."""
        return self._error is not None

    def error(self) -> TritonError | None:
        """The error, or None."""
        return self._error

    def parameters(self) -> str:
        """Its parameters as JSON."""
        return json.dumps(dict(self._parameters))


class OutputNames:
    """Which of the tensors that a model gives belong into an answer: Triton drops the others without a word.

    Args:
        outputs: what the configuration declares.
        states: a sequence's implicit state, which is taken whatever the caller asked for.
    """

    __slots__ = ("_all", "_states")

    def __init__(self, outputs: Collection[str], states: Collection[str]) -> None:
        self._states = frozenset(states)
        self._all = frozenset(outputs) | self._states

    def of(self, request: InferRequest) -> frozenset[str]:
        """The names of one request's answer."""
        asked = request.output_names
        return self._all if not asked else self._all & self._states.union(asked)


def answer(response: InferenceResponse, request: InferRequest, names: OutputNames) -> InferResponse | InferError:
    """What the server makes of a model's response to one of its requests."""
    if response._error is not None:
        return infer_error(response._error)
    wanted = names.of(request)
    outputs = {}
    for tensor in response._tensors:
        if tensor._name in wanted:
            array = tensor._array
            outputs[tensor._name] = as_bytes(array) if array.dtype.kind in "OSU" else array
    return InferResponse(outputs, response._parameters)


def received(response: InferResponse | InferError | None) -> InferenceResponse:
    """What a model gets of another one's answer; the last word of a decoupled one has no tensors."""
    if isinstance(response, InferError):
        return InferenceResponse(error=triton_error(response))
    if response is None:
        return InferenceResponse()
    tensors = [shared_tensor(name, array) for name, array in response.outputs.items()]
    return InferenceResponse(tensors, parameters=response.parameters)


def checked_parameters(parameters: object, *, floats: bool) -> dict[str, Parameter]:
    """The parameters that a model sets; `floats`: numbers may have a fraction, which Triton's requests do not take.

    Raises:
        TritonModelException: they are of the wrong types.
    """
    if not isinstance(parameters, Mapping):
        raise TritonModelException(f"Expect dict, got {type(parameters)}")
    for key, value in parameters.items():
        if not isinstance(key, str):
            raise TritonModelException(f"Expect parameters keys to have type str, found type {type(key)}")
        if not isinstance(value, (bool, int, str)) and not (floats and isinstance(value, float)):
            raise TritonModelException(f"Expect parameters values to have type bool/int/str, found type {type(value)}")
        _check_fits(key, value)
    return dict(parameters)


def _check_fits(key: str, value: object) -> None:
    """Raise TritonModelException for what no message of the protocol can hold."""
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
        raise TritonModelException(f"Expect parameters values to fit into 64 bits, found {value} for '{key}'")
    try:
        f"{key}{value}".encode()
    except UnicodeEncodeError as error:
        raise TritonModelException(f"Expect parameters to be Unicode: {error}") from error
