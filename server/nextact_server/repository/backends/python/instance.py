"""One TritonPythonModel object, run for the server."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from nextact_server.inference.infer_errors import InferError, internal, unavailable
from nextact_server.inference.infer_request import InferRequest
from nextact_server.inference.infer_spec import SequenceBatching
from nextact_server.inference.instance import Result, StageTimes
from nextact_server.repository.backends.python.context import InstanceContext, running
from nextact_server.repository.backends.python.errors import describe
from nextact_server.repository.backends.python.event_loop import EventLoop
from nextact_server.repository.backends.python.module_loading import ModelCode
from nextact_server.repository.backends.python.requests import InferenceRequest
from nextact_server.repository.backends.python.responses import InferenceResponse, answer

__all__ = ["CLOSE_WAIT_S", "PythonInstance"]

logger = logging.getLogger(__name__)

CLOSE_WAIT_S = 30.0
"""How long closing waits for an execute that runs, and for requests that a response sender has still to finish."""

Received = list[InferenceRequest]


class PythonInstance:
    """Implements `ModelInstance`.

    Args:
        context: what its code knows it by.
        code: its modules, forgotten when it is closed.
        model: the TritonPythonModel, initialized.
        request_class: the InferenceRequest of its own `triton_python_backend_utils`.
    """

    def __init__(
        self, context: InstanceContext, code: ModelCode, model: Any, request_class: type[InferenceRequest]
    ) -> None:
        self._context = context
        self._code = code
        self._model = model
        self._execute: Callable[[Received], object] = getattr(model, "execute", self._no_execute)
        self._received = request_class._received
        self._is_decoupled = context.spec.decoupled
        self._retry_safe = not self._is_decoupled and not isinstance(context.spec.schedule, SequenceBatching)
        self._loop = EventLoop(context.name)
        self._changed = threading.Condition()
        self._is_closing = False
        self._open: set[InferRequest] = set()
        context.may_call = True

    @property
    def retry_safe(self) -> bool:
        """Whether a failed batch may be run again by halves: not where a model keeps state or answers by itself."""
        return self._retry_safe

    def execute(self, requests: Sequence[InferRequest], times: StageTimes) -> Sequence[Result]:
        """Run a batch. Raises InferError with Triton's text for whatever the model raised or returned wrongly."""
        began = time.monotonic_ns()
        make, closed, context = self._received, self._closed, self._context
        given = [make(request, closed) for request in requests]
        if self._is_decoupled:
            self._open.update(requests)
        entered = running.set(context)
        context.thread = threading.get_ident()
        called = time.monotonic_ns()
        try:
            returned = self._execute(given)
            if returned.__class__ is not list and asyncio.iscoroutine(returned):
                returned = self._await(returned, given)
            came_back = time.monotonic_ns()
            results = self._streaming(returned, given) if self._is_decoupled else self._results(returned, given)
        except BaseException as error:
            return self._failed(error, given)
        finally:
            context.thread = 0
            running.reset(entered)
            if self._is_closing:
                self._notify()
        times.input_ns += called - began
        times.infer_ns += came_back - called
        times.output_ns += time.monotonic_ns() - came_back
        return results

    def close(self) -> None:
        """Wait for what runs, finalize the model and forget its code.

        Waits CLOSE_WAIT_S at most. What is open then gets an error, and a model whose execute has not come back is left
        without finalize.
        """
        context = self._context
        with self._changed:
            self._is_closing = True
            self._changed.wait_for(lambda: not context.thread and not self._open, CLOSE_WAIT_S)
        context.may_call = False
        is_blocked = bool(context.thread)
        left = list(self._open)
        if is_blocked or left:
            logger.error(
                "instance %s is closed after %g s with execute %s and %d requests unanswered",
                context.name,
                CLOSE_WAIT_S,
                "still running" if is_blocked else "done",
                len(left),
            )
        for request in left:
            request.respond(unavailable(f"model '{context.spec.name}' was unloaded before it answered"))
        if not is_blocked:
            self._finalize()
        self._loop.close()
        self._code.close()
        del self._model, self._execute

    def _results(self, returned: object, given: Received) -> Sequence[Result]:
        if returned is None:
            returned = [None] * len(given)
            if any(request._sender is None and not request._request.reschedule for request in given):
                raise self._wrong("Expected a list in the execute return, found type '<class 'NoneType'>'.")
        if not isinstance(returned, list):
            raise self._wrong(f"Expected a list in the execute return, found type '{type(returned)}'.")
        if len(returned) != len(given):
            raise self._wrong(
                "Number of InferenceResponse objects do not match the number of InferenceRequest objects. "
                f"InferenceRequest(s) size is:{len(given)}, and InferenceResponse(s) size is:{len(returned)}\n"
            )
        names = self._context.names
        results: list[Result] = []
        for request, response in zip(given, returned, strict=True):
            if response.__class__ is InferenceResponse and request._sender is None and not request._request.reschedule:
                results.append(answer(response, request._request, names))
            else:
                results.append(self._unusual(request, response))
        return results

    def _unusual(self, request: InferenceRequest, response: object) -> Result:
        """The result of a request that a sender may have answered, or that is to run again."""
        asked, sender = request._request, request._sender
        if asked.reschedule and response is not None:
            raise self._wrong(
                "Expected a None object in the execute function return list for reschduled request, found type "
                f"'{type(response)}'."
            )
        if isinstance(response, InferenceResponse):
            if sender is not None:
                if sender.has_sent:
                    return None
                sender.close()
            return answer(response, asked, self._context.names)
        if response is not None or (sender is None and not asked.reschedule):
            raise self._wrong(
                "Expected an 'InferenceResponse' object in the execute function return list, found type "
                f"'{type(response)}'."
            )
        if sender is not None:
            self._open.add(asked)
            if sender.has_sent:
                self._closed(asked)
        return None

    def _streaming(self, returned: object, given: Received) -> Sequence[Result]:
        if returned is not None:
            raise self._wrong(
                f"Python model '{self._context.name}' is using the decoupled mode and the execute function must return "
                "None."
            )
        for request in given:
            if request._request.reschedule:
                self._closed(request._request)
        return [None] * len(given)

    def _await(self, coroutine: Any, given: Received) -> object:
        if self._is_decoupled:
            # It goes on beside the next execute, and its failure is that of what it has not answered.
            self._loop.submit(coroutine, lambda future: self._ended(future, given))
            return None
        future = self._loop.submit(coroutine)
        self._context.thread = self._loop.ident
        return future.result()

    def _ended(self, future: Future[Any], given: Received) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None:
            failure = self._failure(error, given)
            for request in given:
                request._request.respond(failure)

    def _failed(self, error: BaseException, given: Received) -> Sequence[Result]:
        failure = self._failure(error, given)
        if self._retry_safe and any(sender is not None and sender.has_sent for sender in _senders(given)):
            # Not to be run again: some have their answers.
            return [failure] * len(given)
        raise failure from error

    def _failure(self, error: BaseException, given: Received) -> InferError:
        for sender in _senders(given):
            if sender is not None:
                sender.close()
        for request in given:
            self._closed(request._request)
        failure = error if isinstance(error, InferError) else self._wrong(describe(error))
        logger.error("%s", failure.message)
        return failure

    def _closed(self, request: InferRequest) -> None:
        self._open.discard(request)
        if self._is_closing:
            self._notify()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _finalize(self) -> None:
        finalize = getattr(self._model, "finalize", None)
        if finalize is None:
            return
        entered = running.set(self._context)
        try:
            finalize()
        except BaseException as error:
            logger.error("finalize of %s failed: %s", self._context.name, describe(error))
        finally:
            running.reset(entered)

    def _no_execute(self, _: Received) -> object:
        raise self._wrong(f"Python model {self._code.file} does not implement `execute` method.")

    def _wrong(self, text: str) -> InferError:
        return internal(f"Failed to process the request(s) for model '{self._context.name}', message: {text}")


def _senders(given: Received) -> list[Any]:
    return [request._sender for request in given]
