"""ModelInfer in bursts: the calls of a burst go to their model together, and are answered one by one."""

import asyncio
import contextlib
from collections.abc import Mapping
from concurrent.futures import Future, InvalidStateError
from typing import Any

from nextact_server.inference.infer_errors import InferError
from nextact_server.inference.infer_request import InferRequest, InferResponse
from nextact_server.rpc.burst import Answers
from nextact_server.rpc.errors import CallError, as_call_error
from nextact_server.rpc.kserve.encode import infer_response
from nextact_server.rpc.kserve.infer import InferService
from nextact_server.rpc.kserve.request import RpcRequest
from nextact_server.rpc.kserve.wire import cut

__all__ = ["InferBurst"]


class InferBurst:
    """See `Burst`. It is also the sink of its requests, whose `key` is the call id."""

    def __init__(self, service: InferService, answers: Answers) -> None:
        self._service = service
        self._reader = service.reader
        self._answers = answers
        self._open: dict[int, RpcRequest] = {}
        self._emptied: Future[None] | None = None

    def read(self, payload: bytes) -> RpcRequest:
        """Decode and check a call. Raises CallError and InferError."""
        return self._reader.read(cut(payload), self, unary=True)

    def start(self, calls: Mapping[int, RpcRequest]) -> None:
        """Hand calls to their models."""
        for call_id, request in calls.items():
            request.key = call_id
        self._open.update(calls)
        self._service.submit(list(calls.values()))

    def wait(self) -> None:
        """Read on at once: a slow model must not hold up the others."""

    def cancel(self, call_id: int) -> bool:
        """Cancel a call's request."""
        request = self._open.pop(call_id, None)
        if request is None:
            return False
        request.cancel()
        return True

    def unanswered(self) -> "list[asyncio.Future[Any]]":
        """One future for all open calls."""
        if not self._open:
            return []
        emptied = self._emptied = Future()
        self._tell_if_empty()
        return [asyncio.wrap_future(emptied)]

    def abandon(self, error: CallError) -> None:
        """End every open call."""
        for call_id, request in list(self._open.items()):
            self._answers.fail(call_id, error)
            request.cancel()
            self._open.pop(call_id, None)

    def respond(self, request: InferRequest, response: InferResponse | InferError | None, final: bool) -> None:
        """Answer a call, on the thread that made the response; see `ResponseSink`."""
        assert isinstance(request, RpcRequest)
        outcome = request.only_response(response, final=final)
        if outcome is None:
            return
        call_id = request.key
        request.sending(outcome)
        try:
            if isinstance(outcome, InferError):
                raise outcome
            if not request.is_cancelled:
                self._answers.respond(call_id, infer_response(request, outcome))
        except Exception as error:
            self._answers.fail(call_id, as_call_error(error))
        request.sent(final=True)
        # Not before: who stops the server waits for the answers to those that are open.
        self._open.pop(call_id, None)
        if self._emptied is not None:
            self._tell_if_empty()

    def _tell_if_empty(self) -> None:
        emptied = self._emptied
        if emptied is not None and not self._open:
            with contextlib.suppress(InvalidStateError):  # two threads that answered the last calls may both be here
                emptied.set_result(None)
