"""What is noted of one traced request: the moments of its way, and its tensors where they are asked for."""

import time
from collections.abc import Callable, Mapping
from enum import StrEnum

from nextact_server.inference.infer_errors import InferError
from nextact_server.inference.infer_request import InferRequest, InferResponse, ResponseSink
from nextact_server.inference.tensors import Tensor

__all__ = ["Moment", "Trace", "TracedSink"]


class Moment(StrEnum):
    """A moment of a request, by Triton's name for it."""

    GRPC_WAITREAD_START = "GRPC_WAITREAD_START"
    GRPC_WAITREAD_END = "GRPC_WAITREAD_END"
    REQUEST_START = "REQUEST_START"
    QUEUE_START = "QUEUE_START"
    COMPUTE_START = "COMPUTE_START"
    COMPUTE_INPUT_END = "COMPUTE_INPUT_END"
    COMPUTE_OUTPUT_START = "COMPUTE_OUTPUT_START"
    COMPUTE_END = "COMPUTE_END"
    INFER_RESPONSE_COMPLETE = "INFER_RESPONSE_COMPLETE"
    REQUEST_END = "REQUEST_END"
    GRPC_SEND_START = "GRPC_SEND_START"
    GRPC_SEND_END = "GRPC_SEND_END"


class Trace:
    """What is noted of one request, by whoever has it in hand: one thread at a time, or (stamps alone) several."""

    __slots__ = (
        "_finish",
        "_next_id",
        "id",
        "model_name",
        "model_version",
        "parent_id",
        "request_id",
        "stamps",
        "tensors",
        "wants_tensors",
        "wants_times",
    )

    def __init__(
        self,
        model_name: str,
        next_id: Callable[[], int],
        finish: Callable[["Trace"], None],
        levels: frozenset[str],
        parent_id: int = 0,
    ) -> None:
        self.id = next_id()
        self.parent_id = parent_id
        self.model_name = model_name
        self.model_version = 0
        self.request_id = ""
        self.stamps: list[tuple[str, int]] = []
        self.tensors: list[tuple[str, Mapping[str, Tensor]]] = []
        self.wants_times = "TIMESTAMPS" in levels
        self.wants_tensors = "TENSORS" in levels
        self._next_id = next_id
        self._finish = finish

    def stamp(self, moment: Moment, moment_ns: int | None = None) -> None:
        """Note a moment: `time.monotonic_ns`, or now."""
        if self.wants_times:
            self.stamps.append((moment.value, time.monotonic_ns() if moment_ns is None else moment_ns))

    def begin(self, request: InferRequest, model_version: int) -> None:
        """The request is about to be submitted to that version: REQUEST_START is its arrival, QUEUE_START is now."""
        self.model_version = model_version
        self.request_id = request.id
        self.stamp(Moment.REQUEST_START, request.arrived_ns)
        self.stamp(Moment.QUEUE_START)
        if self.wants_tensors:
            self.tensors.append(("TENSOR_QUEUE_INPUT", request.inputs))

    def responded(self, outputs: Mapping[str, Tensor] | None) -> None:
        """A response was made; None: it holds no tensors."""
        self.stamp(Moment.INFER_RESPONSE_COMPLETE)
        if self.wants_tensors and outputs:
            self.tensors.append(("TENSOR_BACKEND_OUTPUT", outputs))

    def child(self, model_name: str) -> "Trace":
        """A trace for a request that this one makes of another model."""
        levels = frozenset(
            level for level, wanted in (("TIMESTAMPS", self.wants_times), ("TENSORS", self.wants_tensors)) if wanted
        )
        return Trace(model_name, self._next_id, self._finish, levels, self.id)

    def finish(self) -> None:
        """The last response is on its way: REQUEST_END, and off to the file. A trace that never gets here is lost.

        What a model that answers from within its execution notes later still gets there, most of the time: traces are
        written in groups.
        """
        self.stamp(Moment.REQUEST_END)
        self._finish(self)


class TracedSink:
    """Notes the responses of a request on their way to its own sink (`ResponseSink`)."""

    __slots__ = ("_sink", "_trace")

    def __init__(self, sink: ResponseSink, trace: Trace) -> None:
        self._sink = sink
        self._trace = trace

    def respond(self, request: InferRequest, response: InferResponse | InferError | None, final: bool) -> None:
        """Pass a response on; the trace is finished with the last."""
        trace = self._trace
        trace.responded(response.outputs if isinstance(response, InferResponse) else None)
        trace.stamp(Moment.GRPC_SEND_START)
        self._sink.respond(request, response, final)
        trace.stamp(Moment.GRPC_SEND_END)
        if final:
            trace.finish()
