"""One inference of tensors on its way through the server, whoever brought it: an RPC, an ensemble or another model."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol

from nextact_server.inference.infer_errors import InferError
from nextact_server.inference.tensors import Tensor

if TYPE_CHECKING:
    from nextact_server.inference.instance import StageTimes

__all__ = [
    "NO_PARAMETERS",
    "BatchSink",
    "InferRequest",
    "InferResponse",
    "Parameter",
    "RequestOwner",
    "ResponseSink",
    "responding_together",
]

Parameter = bool | int | float | str
NO_PARAMETERS: Mapping[str, Parameter] = {}


@dataclass(slots=True)
class InferResponse:
    """Output tensors by name, the batch axis included, and parameters that travel with them."""

    outputs: dict[str, Tensor]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)


class ResponseSink(Protocol):
    """Takes a request's responses, on any thread, in order; it must be quick and must not raise."""

    def respond(self, request: "InferRequest", response: InferResponse | InferError | None, final: bool) -> None:
        """Take one response. None says only that there are no more, and then `final` is set."""


class BatchSink(ResponseSink, Protocol):
    """A sink that gains by knowing that several responses come at once."""

    def together(self) -> AbstractContextManager[None]:
        """Responses given within, on this thread, may be sent at its end."""


def responding_together(requests: Sequence["InferRequest"]) -> AbstractContextManager[object]:
    """A context in which the responses to the requests of one batch are given; sinks that care are told (BatchSink)."""
    contexts: list[AbstractContextManager[object]] = [
        sink.together()  # type: ignore[attr-defined]
        for sink in {request.sink for request in requests}
        if getattr(sink, "together", None) is not None
    ]
    if len(contexts) == 1:
        return contexts[0]
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        return stack.pop_all()


class RequestOwner(Protocol):
    """The served model that counts a request in and out; told before the sink is."""

    def responded(self, request: "InferRequest", response: InferResponse | InferError | None, final: bool) -> None:
        """Note one response."""


class InferRequest:
    """A checked request for one model version.

    Attributes:
        id: the caller's name for it, echoed in responses.
        inputs: tensors by name, the batch axis included where the model batches.
        batch_size: rows of the batch axis; 1 where the model does not batch.
        output_names: outputs that are asked for, in order; empty: all.
        parameters: the request's parameters as the model sees them, without those that schedule it.
        priority: 0 the model's default, else 1 (first) to the model's levels.
        timeout_us: how long it may wait in the queue, where the model's policy lets it say so; 0: it does not say.
        correlation_id: the sequence it belongs to: an int, or a str; 0 or '' : none.
        sequence_start, sequence_end: its place in that sequence.
        sink: who gets the responses.
        arrived_ns: `time.monotonic_ns` of its arrival.
        owner: set by the served model when it takes the request.
        on_cancel: set by whoever can take it out of a queue; called by `cancel`.
        reschedule: set by a model of an iterative sequence that returns no result: run it again.
        is_null: it stands in an empty batch slot of a sequence batch; nobody waits for it, and nothing counts it.
        stages: where the times of the runs it is charged are summed, for an ensemble that asks; else None.
    """

    __slots__ = (
        "arrived_ns",
        "batch_size",
        "correlation_id",
        "id",
        "inputs",
        "is_cancelled",
        "is_done",
        "on_cancel",
        "output_names",
        "owner",
        "parameters",
        "priority",
        "reschedule",
        "sequence_end",
        "sequence_start",
        "sink",
        "stages",
        "timeout_us",
        "trace",
    )
    is_null: ClassVar[bool] = False

    def __init__(
        self,
        inputs: dict[str, Tensor],
        sink: ResponseSink,
        *,
        batch_size: int = 1,
        id: str = "",
        output_names: Sequence[str] = (),
        parameters: Mapping[str, Parameter] = NO_PARAMETERS,
        priority: int = 0,
        timeout_us: int = 0,
        correlation_id: int | str = 0,
        sequence_start: bool = False,
        sequence_end: bool = False,
    ) -> None:
        self.inputs = inputs
        self.sink = sink
        self.batch_size = batch_size
        self.id = id
        self.output_names = output_names
        self.parameters = parameters
        self.priority = priority
        self.timeout_us = timeout_us
        self.correlation_id = correlation_id
        self.sequence_start = sequence_start
        self.sequence_end = sequence_end
        self.arrived_ns = time.monotonic_ns()
        self.owner: RequestOwner | None = None
        self.on_cancel: Callable[[], object] | None = None
        self.trace: object | None = None
        self.stages: StageTimes | None = None
        self.reschedule = False
        self.is_cancelled = False
        self.is_done = False

    def respond(self, response: InferResponse | InferError | None, *, final: bool = True) -> None:
        """Give the caller a response; the one way to do so. After the final one nothing is passed on any more."""
        if self.is_done:
            return
        if final:
            self.is_done = True
        if self.owner is not None:
            self.owner.responded(self, response, final)
        self.sink.respond(self, response, final)

    def cancel(self) -> None:
        """The caller went away: what waits is taken out of its queue, what runs may look at `is_cancelled`."""
        self.is_cancelled = True
        on_cancel = self.on_cancel  # read once: whoever takes the request out of its queue resets it
        if on_cancel is not None:
            on_cancel()
