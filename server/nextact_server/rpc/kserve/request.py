"""A request that an RPC brought, with what its response needs."""

from collections.abc import Mapping
from typing import Any

from tritonclient.grpc import service_pb2 as pb

from nextact_server.inference.infer_errors import InferError, internal
from nextact_server.inference.infer_request import InferRequest, InferResponse, ResponseSink
from nextact_server.inference.tensors import Tensor
from nextact_server.repository.served import ServedModel
from nextact_server.rpc.decode import parse
from nextact_server.rpc.kserve.parameters import NO_REQUEST_PARAMETERS, RequestParameters
from nextact_server.rpc.kserve.plan import Plan
from nextact_server.rpc.kserve.shared_memory import Window
from nextact_server.rpc.kserve.trace import Moment, Trace

__all__ = ["Outcome", "RpcRequest", "request_id"]

LONG_ID = 0x80 + 2
"""Bytes of an id's field from which on its length takes more than one of them."""

Outcome = InferResponse | InferError


class RpcRequest(InferRequest):
    """A request that an RPC brought, with what its response needs.

    `id_field` is the id as it stands in messages; `payload` the bytes it was read from; `windows` the shared memory
    that outputs go to; `key` is whatever its sink knows it by; `held` what a unary call has been answered so far.
    """

    __slots__ = ("empty_final", "held", "id_field", "key", "payload", "plan", "served", "windows")

    def __init__(
        self,
        inputs: dict[str, Tensor],
        sink: ResponseSink,
        served: ServedModel,
        plan: Plan,
        parameters: RequestParameters,
        payload: bytes,
        id_field: bytes,
        windows: Mapping[str, Window] | None,
    ) -> None:
        super().__init__(
            inputs,
            sink,
            batch_size=plan.batch_size,
            id=request_id(id_field) if id_field else "",
            output_names=plan.output_names,
        )
        if parameters is not NO_REQUEST_PARAMETERS:
            self.parameters = parameters.others
            self.priority = parameters.priority
            self.timeout_us = parameters.timeout_us
            self.correlation_id = parameters.correlation_id
            self.sequence_start = parameters.sequence_start
            self.sequence_end = parameters.sequence_end
        self.empty_final = parameters.empty_final
        self.served = served
        self.plan = plan
        self.payload = payload
        self.id_field = id_field
        self.windows = windows
        self.key: Any = None
        self.held: InferResponse | InferError | None = None

    def adopt(self, fresh: "RpcRequest") -> None:
        """Become the same request for another version of the model."""
        self.inputs = fresh.inputs
        self.batch_size = fresh.batch_size
        self.served = fresh.served
        self.plan = fresh.plan
        self.windows = fresh.windows

    def only_response(self, response: InferResponse | InferError | None, *, final: bool) -> Outcome | None:
        """What a call with one response is told, once it is complete; None while more may come."""
        if response is not None and self.held is None:
            self.held = response
        if not final:
            return None
        return self.held or internal(f"model '{self.plan.spec.name}' gave no response")

    def follow(self, trace: Trace) -> None:
        """Note the way of this request from now on."""
        self.trace = trace
        trace.stamp(Moment.GRPC_WAITREAD_START, self.arrived_ns)
        trace.stamp(Moment.GRPC_WAITREAD_END, self.arrived_ns)
        trace.begin(self, self.plan.spec.version)

    def sending(self, response: InferResponse | InferError | None) -> None:
        """Note, where it is traced, that a response is about to be sent."""
        trace = self.trace
        if isinstance(trace, Trace):
            trace.responded(response.outputs if isinstance(response, InferResponse) else None)
            trace.stamp(Moment.GRPC_SEND_START)

    def sent(self, *, final: bool) -> None:
        """Note, where it is traced, that it was."""
        trace = self.trace
        if isinstance(trace, Trace):
            trace.stamp(Moment.GRPC_SEND_END)
            if final:
                trace.finish()


def request_id(id_field: bytes) -> str:
    """The id in its serialized field. Raises CallError where it is no UTF-8."""
    if len(id_field) < LONG_ID and id_field.isascii():
        return str(id_field[2:], "ascii")
    return str(parse(pb.ModelInferRequest, id_field).id)
