"""From a ModelInferRequest's bytes to a checked request.

A steady caller sends the same head again and again, with other data: what a head says and that it fits the model is
found once and remembered, so that a request costs a look-up and an array over the bytes that arrived.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
from tritonclient.grpc import service_pb2 as pb

from nextact_server.inference.infer_check import byte_size_mismatch
from nextact_server.inference.infer_errors import ErrorCode, InferError, invalid_argument
from nextact_server.inference.infer_request import ResponseSink
from nextact_server.inference.tensors import Tensor
from nextact_server.repository.served import ServedModel
from nextact_server.rpc.decode import parse
from nextact_server.rpc.kserve.contents import raw_tensor, typed_tensor
from nextact_server.rpc.kserve.parameters import NO_REQUEST_PARAMETERS, RequestParameters, request_parameters
from nextact_server.rpc.kserve.plan import Plan
from nextact_server.rpc.kserve.request import RpcRequest, request_id
from nextact_server.rpc.kserve.shared_memory import SharedMemory, Window
from nextact_server.rpc.kserve.trace import Tracer
from nextact_server.rpc.kserve.wire import Cut

__all__ = ["ModelSource", "RequestReader"]

REMEMBERED = 1024
"""Heads that are kept, and as many sets of parameters."""
REMEMBERED_BYTES = 4096
"""Longer heads and parameters, which typed contents make, are read anew each time."""


class ModelSource(Protocol):
    """Where loaded models are found."""

    def get(self, name: str, version: str) -> ServedModel:
        """The version that is to answer; '' is the policy's choice. Raises InferError."""


class _Head:
    """A parsed head, and the plan it makes for the version that was asked last."""

    __slots__ = ("message", "name", "plan", "version")

    def __init__(self, serialized: bytes) -> None:
        self.message = parse(pb.ModelInferRequest, serialized)
        self.name: str = self.message.model_name
        self.version: str = self.message.model_version
        self.plan: Plan | None = None


class RequestReader:
    """Reads requests for the models of one source. Any thread."""

    def __init__(self, models: ModelSource, regions: SharedMemory, tracer: Tracer | None = None) -> None:
        self._models = models
        self._regions = regions
        self._tracer = tracer
        self._known_heads = lru_cache(maxsize=REMEMBERED)(_Head)
        self._known_parameters = lru_cache(maxsize=REMEMBERED)(_parse_parameters)

    def read(self, parts: Cut, sink: ResponseSink, *, unary: bool) -> RpcRequest:
        """The request in a message, checked against the model that is to answer it.

        Raises:
            CallError: the bytes are not a message.
            InferError: no such model, the request does not fit it, or it is decoupled and the call `unary`.
        """
        payload, serialized, id_field, serialized_parameters, raw = parts
        remember = len(serialized) <= REMEMBERED_BYTES
        head = self._known_heads(serialized) if remember else _Head(serialized)
        served = self._models.get(head.name, head.version)
        if unary and served.spec.decoupled:
            raise InferError(
                ErrorCode.UNSUPPORTED, "ModelInfer RPC doesn't support models with decoupled transaction policy"
            )
        parameters = self._parameters(serialized_parameters) if serialized_parameters else NO_REQUEST_PARAMETERS
        plan = head.plan
        if plan is None or plan.spec is not served.spec:
            sizes = [stop - start for start, stop in raw]
            plan = head.plan = Plan(served.spec, head.message, sizes, request_id(id_field))
        inputs: dict[str, Tensor]
        if plan.raw is not None and len(plan.raw) <= len(raw):
            inputs = {}
            for each, (start, stop) in zip(plan.raw, raw, strict=False):
                if stop - start != each.byte_size:
                    raise byte_size_mismatch(plan.spec, each.name, each.byte_size, stop - start, request_id(id_field))
                inputs[each.name] = np.ndarray(each.shape, each.dtype, payload, start)
        else:
            inputs = self._inputs(plan, payload, raw, request_id(id_field))
        windows = self._windows(plan) if plan.wishes else None
        request = RpcRequest(inputs, sink, served, plan, parameters, payload, id_field, windows)
        if self._tracer is not None and (trace := self._tracer.sample(plan.spec.name)) is not None:
            request.follow(trace)
        return request

    def _parameters(self, serialized: bytes) -> RequestParameters:
        if len(serialized) <= REMEMBERED_BYTES:
            return self._known_parameters(serialized)
        return _parse_parameters(serialized)

    def _inputs(self, plan: Plan, payload: bytes, raw: Sequence[tuple[int, int]], request_id: str) -> dict[str, Tensor]:
        """The tensors of a request some of whose inputs are BYTES, typed, or in shared memory."""
        spec = plan.spec
        view = memoryview(payload)
        pieces = iter(raw)
        inputs: dict[str, Tensor] = {}
        for each, shared, contents in plan.inputs:
            if shared is not None:
                if contents is not None:
                    raise invalid_argument(
                        "unexpected 'content' provided when using shared memory for input tensor "
                        f"'{each.name}' for model '{spec.name}'"
                    )
                window = self._regions.window(shared.region, shared.offset, shared.byte_size)
                if each.byte_size not in (-1, window.byte_size):  # told before room is made for a copy of any size
                    raise byte_size_mismatch(spec, each.name, each.byte_size, window.byte_size, request_id)
                inputs[each.name] = raw_tensor(spec, each, window.read(), request_id)
            elif contents is not None:
                if raw:
                    raise invalid_argument(
                        f"contents field must not be specified when using raw_input_contents for '{each.name}' for "
                        f"model '{spec.name}'"
                    )
                inputs[each.name] = typed_tensor(spec, each, contents, request_id)
            else:
                piece = next(pieces, None)
                if piece is None:
                    raise invalid_argument(
                        f"unable to find data for input tensor '{each.name}' for model '{spec.name}' in request."
                    )
                inputs[each.name] = raw_tensor(spec, each, view[piece[0] : piece[1]], request_id)
        return inputs

    def _windows(self, plan: Plan) -> dict[str, Window]:
        """The shared memory that outputs go to, found now so that a mistake is told before anything is computed."""
        return {
            name: self._regions.window(wish.shared.region, wish.shared.offset, wish.shared.byte_size)
            for name, wish in plan.wishes.items()
            if wish.shared is not None
        }


def _parse_parameters(serialized: bytes) -> RequestParameters:
    return request_parameters(parse(pb.ModelInferRequest, serialized).parameters)
