"""ModelInfer in bursts: the calls of a burst go to their model together, and are answered one by one."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager
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


class _Held(threading.local):
    """What a thread answers within `together`; None: it is not within."""

    responses: list[tuple[RpcRequest, bytes]] | None = None


class InferBurst:
    """See `Burst`. It is also the sink of its requests, whose `key` is the call id."""

    def __init__(self, service: InferService, answers: Answers) -> None:
        self._service = service
        self._reader = service.reader
        self._answers = answers
        self._open: dict[int, RpcRequest] = {}
        self._emptied: Future[None] | None = None
        self._held = _Held()

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
        request.sending(outcome)
        try:
            if isinstance(outcome, InferError):
                raise outcome
            message = b"" if request.is_cancelled else infer_response(request, outcome)
        except Exception as error:
            self._answers.fail(request.key, as_call_error(error))
            self._answered(request)
            return
        if self._held.responses is not None:
            self._held.responses.append((request, message))
        else:
            self._send(request, message)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Hold responses back until all of a batch are there; see `BatchSink`.

        Each that is written wakes the front's thread if it sleeps, which costs more than making the response: one after
        the other they would wake it every time, all at once they find it awake.
        """
        if self._held.responses is not None:
            yield
            return
        held = self._held.responses = []
        try:
            yield
        finally:
            self._held.responses = None
            for request, message in held:
                self._send(request, message)

    def _send(self, request: RpcRequest, message: bytes) -> None:
        if not request.is_cancelled:
            self._answers.respond(request.key, message)
        self._answered(request)

    def _answered(self, request: RpcRequest) -> None:
        request.sent(final=True)
        # Not before: who stops the server waits for the answers to those that are open.
        self._open.pop(request.key, None)
        if self._emptied is not None:
            self._tell_if_empty()

    def _tell_if_empty(self) -> None:
        emptied = self._emptied
        if emptied is not None and not self._open:
            with contextlib.suppress(InvalidStateError):  # two threads that answered the last calls may both be here
                emptied.set_result(None)
