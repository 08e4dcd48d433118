"""`pb_utils.InferenceRequest`: what a model is given, and what it asks other models with."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import ClassVar, Self

from nextact_server.inference.infer_request import NO_PARAMETERS, InferRequest, Parameter
from nextact_server.repository.backends.python import bls
from nextact_server.repository.backends.python.context import InstanceContext, current
from nextact_server.repository.backends.python.errors import TritonModelException, incompatible
from nextact_server.repository.backends.python.response_sender import ResponseSender
from nextact_server.repository.backends.python.responses import InferenceResponse, checked_parameters
from nextact_server.repository.backends.python.tensors import Tensor, as_bytes, shared_tensor

__all__ = ["InferenceRequest", "InferenceTrace", "MemoryType", "PreferredMemory", "get_input_tensor_by_name"]

SEQUENCE_START = 1
SEQUENCE_END = 2
RELEASE_ALL = 1
RELEASE_RESCHEDULE = 2
_SIGNATURE = (
    "c_python_backend_utils.InferenceRequest(request_id: str = '', correlation_id: object = 0, inputs: "
    "List[c_python_backend_utils.Tensor], requested_output_names: List[str], model_name: str, model_version: int = -1, "
    "flags: int = 0, timeout: int = 0, preferred_memory: c_python_backend_utils.PreferredMemory, trace: "
    "c_python_backend_utils.InferenceTrace, parameters: object = None)"
)


class MemoryType(IntEnum):
    """Where a tensor lies."""

    TRITONSERVER_MEMORY_GPU = 0
    TRITONSERVER_MEMORY_CPU = 1


class PreferredMemory:
    """Where the outputs of another model are wanted. Taken and not heeded: they always lie in the host's memory."""

    __slots__ = ("device_id", "memory_type")

    def __init__(self, preferred_memory_type: MemoryType, preferred_device_id: int = 0) -> None:
        self.memory_type = preferred_memory_type
        self.device_id = preferred_device_id


class InferenceTrace:
    """The trace that a request belongs to; given on with a request to another model, that one belongs to it too."""

    __slots__ = ("trace",)

    def __init__(self, trace: object = None) -> None:
        self.trace = trace

    def get_context(self) -> str | None:
        """The trace context as the caller sent it; None where there is none."""
        context = getattr(self.trace, "context", None)
        return context if isinstance(context, str) else None


class _Nobody:
    """Stands for the sink of a request that was made, and not yet sent."""

    def respond(self, *_: object) -> None:
        raise AssertionError("nobody was asked")


_NOBODY = _Nobody()


class InferenceRequest:
    """A request. Its methods are those of Triton's; those that ask another model are `exec` and `async_exec`.

    `_context` is the instance whose code holds the class, set in the subclass that each instance has; libraries
    outside of a model's directory share this one, and then it is found by the thread.
    """

    __slots__ = ("_closed", "_request", "_sender", "_target", "_tensors")

    _context: ClassVar[InstanceContext | None] = None

    def __init__(
        self,
        request_id: str = "",
        correlation_id: int | str = 0,
        inputs: Sequence[Tensor] | None = None,
        requested_output_names: Sequence[str] | None = None,
        model_name: str | None = None,
        model_version: int = -1,
        flags: int = 0,
        timeout: int = 0,
        preferred_memory: PreferredMemory | None = None,  # noqa: ARG002
        trace: InferenceTrace | None = None,
        parameters: Mapping[str, Parameter] | None = None,
        priority: int = 0,
    ) -> None:
        if not (
            isinstance(request_id, str)
            and isinstance(inputs, (list, tuple))
            and all(isinstance(tensor, Tensor) for tensor in inputs)
            and isinstance(requested_output_names, (list, tuple))
            and isinstance(model_name, str)
        ):
            raise incompatible(_SIGNATURE, request_id, correlation_id, inputs, requested_output_names, model_name)
        if not isinstance(correlation_id, (int, str)):
            raise TritonModelException("Correlation ID must be integer or string")
        if "" in requested_output_names:
            raise TritonModelException(
                f"Requested output name for request with id '{request_id}' and model name '{model_name}' should not be "
                "empty."
            )
        self._closed: Callable[[InferRequest], object] | None = None
        self._target = (model_name, "" if model_version == -1 else str(model_version))
        self._tensors: dict[str, Tensor] | None = {tensor.name(): tensor for tensor in inputs}
        self._sender: ResponseSender | None = None
        self._request = InferRequest(
            {name: as_bytes(array) if array.dtype.kind in "OSU" else array for name, array in _arrays(inputs)},
            _NOBODY,
            id=request_id,
            output_names=tuple(requested_output_names),
            parameters=NO_PARAMETERS if parameters is None else checked_parameters(parameters, floats=False),
            priority=priority,
            timeout_us=timeout,
            correlation_id=correlation_id,
            sequence_start=bool(flags & SEQUENCE_START),
            sequence_end=bool(flags & SEQUENCE_END),
        )
        if trace is not None:
            self._request.trace = trace.trace

    @classmethod
    def _received(cls, request: InferRequest, closed: Callable[[InferRequest], object]) -> Self:
        made = cls.__new__(cls)
        made._request = request
        made._closed = closed
        made._tensors = None
        made._sender = None
        return made

    def inputs(self) -> list[Tensor]:
        """Its input tensors, always the same objects."""
        return [self._input(name) for name in self._request.inputs]

    def _input(self, name: str) -> Tensor:
        tensors = self._tensors
        if tensors is None:
            tensors = self._tensors = {}
        tensor = tensors.get(name)
        if tensor is None:
            tensor = tensors[name] = shared_tensor(name, self._request.inputs[name])
        return tensor

    def request_id(self) -> str:
        """The caller's name for it."""
        return self._request.id

    def correlation_id(self) -> int | str:
        """The sequence it belongs to; 0: none."""
        return self._request.correlation_id

    def flags(self) -> int:
        """TRITONSERVER_REQUEST_FLAG_SEQUENCE_START and _END, or-ed."""
        request = self._request
        return SEQUENCE_START * request.sequence_start | SEQUENCE_END * request.sequence_end

    def set_flags(self, flags: int) -> None:
        """Say where in its sequence it stands."""
        self._request.sequence_start = bool(flags & SEQUENCE_START)
        self._request.sequence_end = bool(flags & SEQUENCE_END)

    def set_release_flags(self, flags: int) -> None:
        """TRITONSERVER_REQUEST_RELEASE_RESCHEDULE: run it again, in an iterative sequence."""
        if flags not in (RELEASE_ALL, RELEASE_RESCHEDULE):
            raise TritonModelException("Unable to set release flags. Unsupported flag provided.")
        self._request.reschedule = flags == RELEASE_RESCHEDULE

    def timeout(self) -> int:
        """How long it may wait in a queue, in microseconds; 0: it does not say."""
        return self._request.timeout_us

    def priority(self) -> int:
        """Its priority; 0: the model's default."""
        return self._request.priority

    def parameters(self) -> str:
        """Its parameters as JSON."""
        return json.dumps(dict(self._request.parameters))

    def requested_output_names(self) -> set[str]:
        """The outputs that are asked for."""
        request = self._request
        if request.output_names or self._closed is None or self._context is None:
            return set(request.output_names)
        return {output.name for output in self._context.spec.outputs}

    def trace(self) -> InferenceTrace:
        """The trace it belongs to."""
        return InferenceTrace(self._request.trace)

    def is_cancelled(self) -> bool:
        """Whether the caller went away."""
        return self._request.is_cancelled

    def get_response_sender(self) -> ResponseSender:
        """What answers it apart from what execute returns, always the same object."""
        if self._sender is None:
            context = self._context
            if context is None or self._closed is None:
                raise TritonModelException("'get_response_sender' function must be called on a request of the model.")
            self._sender = ResponseSender(self._request, context.names, context.spec.decoupled, self._closed)
        return self._sender

    def exec(self, decoupled: bool = False) -> "InferenceResponse | bls.ResponseIterator":
        """Ask the other model and wait: for its response, or with `decoupled` for one after the other by iterating.

        A model that is asked by itself waits for an instance of its own that is free; see `bls.ask`.
        """
        if decoupled:
            return bls.stream(self._asked_by(), self._request, self._target)
        return bls.ask(self._asked_by(), self._request, self._target)

    def async_exec(self, decoupled: bool = False) -> "asyncio.Future[InferenceResponse | bls.ResponseIterator]":
        """As `exec`, to be awaited on a running event loop."""
        loop = asyncio.get_running_loop()
        return bls.ask_async(loop, self._asked_by(), self._request, self._target, decoupled=decoupled)

    def _asked_by(self) -> InstanceContext:
        return self._context or current()


def _arrays(tensors: Sequence[Tensor]) -> "list[tuple[str, bls.Array]]":
    return [(tensor._name, tensor._array) for tensor in tensors]


def get_input_tensor_by_name(inference_request: InferenceRequest, name: str) -> Tensor | None:
    """The request's input of that name, or None."""
    return inference_request._input(name) if name in inference_request._request.inputs else None
