"""Models that ask other models of the server while they run ("business logic scripting")."""

import asyncio
import threading
from collections.abc import Iterator
from queue import SimpleQueue

from nextact_server.inference.infer_errors import ErrorCode, InferError, internal
from nextact_server.inference.infer_request import InferRequest, InferResponse, ResponseSink
from nextact_server.inference.infer_spec import ModelSpec
from nextact_server.inference.tensors import Tensor as Array
from nextact_server.repository.backends.python.context import InstanceContext
from nextact_server.repository.backends.python.responses import InferenceResponse, received

__all__ = ["Array", "ResponseIterator", "Target", "ask", "ask_async", "stream"]

Target = tuple[str, str]
"""A model's name and version, '' where it is not said."""

Response = InferResponse | InferError | None


class _Answers:
    """Collects a request's responses for whoever waits for them."""

    __slots__ = ("_queue",)

    def __init__(self) -> None:
        self._queue: SimpleQueue[tuple[Response, bool]] = SimpleQueue()

    def respond(self, request: InferRequest, response: Response, final: bool) -> None:  # noqa: ARG002
        self._queue.put((response, final))

    def next(self) -> tuple[Response, bool]:
        return self._queue.get()


class _LastAnswer:
    """Gives the one response of a request to a future of an event loop."""

    __slots__ = ("_future", "_loop", "_response")

    def __init__(self, loop: asyncio.AbstractEventLoop, future: "asyncio.Future[InferenceResponse]") -> None:
        self._loop = loop
        self._future = future
        self._response: Response = None

    def respond(self, request: InferRequest, response: Response, final: bool) -> None:  # noqa: ARG002
        if response is not None:
            self._response = response
        if final:
            self._loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        if not self._future.done():
            self._future.set_result(received(self._response))


class ResponseIterator:
    """The responses of a decoupled model as they come. Iterated again, it gives those that it gave before."""

    def __init__(self, request: InferRequest | None, answers: _Answers, is_done: bool = False) -> None:
        self._request = request
        self._answers = answers
        self._responses: list[InferenceResponse] = []
        self._at = 0
        self._is_done = is_done

    def __iter__(self) -> Iterator[InferenceResponse]:
        if self._is_done:
            self._at = 0
        return self

    def __next__(self) -> InferenceResponse:
        if self._at == len(self._responses):
            if self._is_done:
                raise StopIteration("Iteration is done for the responses.")
            response, self._is_done = self._answers.next()
            self._responses.append(received(response))
        self._at += 1
        return self._responses[self._at - 1]

    def cancel(self) -> None:
        """Tell the other model that no more responses are wanted."""
        if self._request is not None:
            self._request.cancel()


def ask(context: InstanceContext, asked: InferRequest, target: Target) -> InferenceResponse:
    """Ask a model and wait for its response; why it could not be asked is the response too.

    The thread of the instance that asks waits, and the other model runs on threads of its own, so nothing but a model
    that (itself or in a circle) asks itself can wait for ever. That it asks itself and has no other instance is found
    here, and refused; a circle of several models is the model's mistake, as in Triton.

    Raises:
        TritonModelException: the model is not running.
    """
    answers = _Answers()
    failure = _send(context, asked, target, answers, decoupled=False)
    if failure is not None:
        return received(failure)
    response, final = answers.next()
    while not final:
        more, final = answers.next()
        response = more if more is not None else response
    return received(response)


def stream(context: InstanceContext, asked: InferRequest, target: Target) -> ResponseIterator:
    """Ask a model, decoupled or not, for responses to be iterated over. Raises as `ask`."""
    answers = _Answers()
    request = _copy(asked, answers)
    failure = _send(context, request, target, answers, decoupled=True)
    if failure is not None:
        answers.respond(request, failure, True)
    return ResponseIterator(request, answers)


def ask_async(
    loop: asyncio.AbstractEventLoop, context: InstanceContext, asked: InferRequest, target: Target, *, decoupled: bool
) -> "asyncio.Future[InferenceResponse | ResponseIterator]":
    """As `ask` or `stream`, as a future of the loop that runs. Iterating over it blocks the loop, as in Triton."""
    future: asyncio.Future[InferenceResponse | ResponseIterator] = loop.create_future()
    if decoupled:
        future.set_result(stream(context, asked, target))
        return future
    failure = _send(context, asked, target, _LastAnswer(loop, future), decoupled=False)  # type: ignore[arg-type]
    if failure is not None:
        future.set_result(received(failure))
    return future


def _send(
    context: InstanceContext, asked: InferRequest, target: Target, sink: ResponseSink, *, decoupled: bool
) -> InferError | None:
    name, version = target
    models = context.door()
    try:
        spec = models.spec(name, version)
        refusal = _refusal(context, spec, decoupled=decoupled)
        if refusal is None:
            models.infer(name, version, asked if asked.sink is sink else _copy(asked, sink))
            return None
    except InferError as error:
        refusal = error.message
        if error.code in (ErrorCode.NOT_FOUND, ErrorCode.UNAVAILABLE):
            refusal = f"Failed for execute the inference request. Model '{name}' is not ready."
    return internal(f"Model {name} - Error when running inference: {refusal}")


def _refusal(context: InstanceContext, spec: ModelSpec, *, decoupled: bool) -> str | None:
    if spec.decoupled and not decoupled:
        return (
            f"Model {spec.name} is using the decoupled. The current BLS request call doesn't support models using the "
            "decoupled transaction policy. Please use 'decoupled=True' argument to the 'exec' or 'async_exec' calls "
            "for decoupled models.'"
        )
    own = context.spec
    is_itself = (spec.name, spec.version) == (own.name, own.version)
    if is_itself and context.is_alone and context.thread == threading.get_ident():
        return (
            f"Model '{own.name}' asks itself while its only instance is busy with asking, and would wait for ever. "
            "A count of 2 or more in instance_group allows it."
        )
    return None


def _copy(asked: InferRequest, sink: ResponseSink) -> InferRequest:
    request = InferRequest(
        asked.inputs,
        sink,
        id=asked.id,
        output_names=asked.output_names,
        parameters=asked.parameters,
        priority=asked.priority,
        timeout_us=asked.timeout_us,
        correlation_id=asked.correlation_id,
        sequence_start=asked.sequence_start,
        sequence_end=asked.sequence_end,
    )
    request.trace = asked.trace
    return request
