"""Served models with schedulers that a test drives, and requests as tritonclient writes them."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc._utils import _get_inference_request

from nextact_server.inference.infer_errors import InferError, not_found
from nextact_server.inference.infer_request import InferRequest, InferResponse
from nextact_server.inference.infer_spec import ModelSpec, TensorSpec
from nextact_server.inference.statistics import ModelStatistics
from nextact_server.inference.tensors import DataType, Tensor
from nextact_server.repository.served import Retired, ServedModel
from nextact_server.rpc.admission import Admission
from nextact_server.rpc.kserve.decode import RequestReader
from nextact_server.rpc.kserve.infer import InferService
from nextact_server.rpc.kserve.plan import Plan
from nextact_server.rpc.kserve.request import RpcRequest
from nextact_server.rpc.kserve.shared_memory import SharedMemory
from nextact_server.rpc.kserve.wire import cut

MAX_BYTES = 64 * 1024 * 1024
PATIENCE_S = 20.0


def model_spec(
    name: str = "ident4", datatype: str = "FP32", dims: Sequence[int] = (4,), max_batch_size: int = 8, **fields: Any
) -> ModelSpec:
    """A model with IN and OUT alike."""
    tensors = {
        "inputs": (TensorSpec("IN", DataType(datatype), tuple(dims)),),
        "outputs": (TensorSpec("OUT", DataType(datatype), tuple(dims)),),
    }
    return ModelSpec(name, 1, "python", max_batch_size=max_batch_size, **{**tensors, **fields})


class Held:
    """A scheduler that keeps what it was given until the test answers it."""

    def __init__(self) -> None:
        self.submitted: list[list[InferRequest]] = []
        self._changed = threading.Condition()

    def submit(self, requests: Sequence[InferRequest]) -> None:
        with self._changed:
            for request in requests:
                request.on_cancel = self._tell
            self.submitted.append(list(requests))
            self._changed.notify_all()

    def wait_for_requests(self, count: int = 1) -> list[InferRequest]:
        """All that were submitted, once they are so many."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.requests) >= count, PATIENCE_S)
        return self.requests

    def wait_for_cancel(self, request: InferRequest) -> None:
        """Returns once a request is cancelled."""
        with self._changed:
            assert self._changed.wait_for(lambda: request.is_cancelled, PATIENCE_S)

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def close(self, *, drain: bool = True) -> None:
        """Nothing runs."""

    @property
    def requests(self) -> list[InferRequest]:
        """All that were submitted, in order."""
        return [request for together in self.submitted for request in together]


class Answering:
    """A scheduler that answers at once: with the inputs renamed to outputs, or as it is told."""

    def __init__(self, answer: Callable[[InferRequest], InferResponse | InferError] | None = None) -> None:
        self._answer = answer or (lambda request: InferResponse({"OUT": request.inputs["IN"]}))

    def submit(self, requests: Sequence[InferRequest]) -> None:
        for request in requests:
            request.respond(self._answer(request))

    def close(self, *, drain: bool = True) -> None:
        """Nothing runs."""


class Decoupled:
    """A scheduler that answers a request with IN=[n] by n responses and then the end, as one model of the probes."""

    def submit(self, requests: Sequence[InferRequest]) -> None:
        for request in requests:
            for number in range(int(request.inputs["IN"].reshape(-1)[0])):
                request.respond(InferResponse({"OUT": np.array([number], np.int32)}), final=False)
            request.respond(None)

    def close(self, *, drain: bool = True) -> None:
        """Nothing runs."""


def served(spec: ModelSpec, scheduler: Any) -> ServedModel:
    """A loaded version."""
    nothing: Any = None
    return ServedModel(spec, nothing, ModelStatistics(), scheduler)


class Models:
    """Loaded versions by name, the latest alone."""

    def __init__(self, *models: ServedModel) -> None:
        self.by_name = {model.spec.name: model for model in models}

    def get(self, name: str, version: str) -> ServedModel:
        model = self.by_name.get(name)
        if model is None:
            raise not_found(f"Request for unknown model: '{name}' is not found")
        return model


class Sink:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.responses: list[tuple[InferResponse | InferError | None, bool]] = []

    def respond(self, request: InferRequest, response: InferResponse | InferError | None, final: bool) -> None:
        self.responses.append((response, final))


def service_for(*models: ServedModel, regions: SharedMemory | None = None) -> InferService:
    """The RPCs over some models."""
    return InferService(Models(*models), regions or SharedMemory(), Admission(MAX_BYTES))


def read(spec: ModelSpec, message: pb.ModelInferRequest | bytes, regions: SharedMemory | None = None) -> RpcRequest:
    """A request read for one model. Raises what reading raises."""
    payload = message if isinstance(message, bytes) else message.SerializeToString()
    reader = RequestReader(Models(served(spec, Held())), regions or SharedMemory())
    return reader.read(cut(payload), Sink(), unary=True)


def infer_input(array: Tensor, datatype: str, name: str = "IN") -> InferInput:
    """An input as tritonclient makes it."""
    made = InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def client_request(
    model: str, inputs: Sequence[InferInput], outputs: Sequence[InferRequestedOutput] | None = None, **options: Any
) -> pb.ModelInferRequest:
    """A request as tritonclient makes it."""
    fields = {"request_id": "", "sequence_id": 0, "sequence_start": False, "sequence_end": False}
    rest = {"priority": 0, "timeout": None, "parameters": None}
    return _get_inference_request(
        inputs=inputs, model_name=model, model_version="", outputs=outputs, **{**fields, **rest, **options}
    )


def raw_request(
    model: str = "ident4",
    inputs: Sequence[tuple[str, str, Sequence[int]]] = (("IN", "FP32", (1, 4)),),
    raw: Sequence[bytes] = (bytes(16),),
    outputs: Sequence[str] = (),
    parameters: Mapping[str, tuple[str, Any]] | None = None,
    **fields: Any,
) -> pb.ModelInferRequest:
    """A request made by hand."""
    message = pb.ModelInferRequest(model_name=model, **fields)
    for name, datatype, shape in inputs:
        message.inputs.add(name=name, datatype=datatype, shape=shape)
    for output in outputs:
        message.outputs.add(name=output)
    for name, (kind, value) in (parameters or {}).items():
        setattr(message.parameters[name], kind, value)
    message.raw_input_contents.extend(raw)
    return message


class RetiredModel(ServedModel):
    """A version that was replaced since it was looked up."""

    def infer(self, requests: Sequence[InferRequest]) -> None:
        raise Retired


def plan_of(request: InferRequest) -> Plan:
    """What is remembered of the head of a request that was submitted."""
    assert isinstance(request, RpcRequest)
    return request.plan
