"""ModelStreamInfer: requests in flight side by side on one stream, each with none, one or many responses.

As in Triton, requests to models with one response each are answered in the order they came; those of decoupled models
whenever there is something, each one's responses in order. A failed request is a message on the stream, which goes on
(https://github.com/triton-inference-server/server/blob/main/docs/user_guide/decoupled_models.md).
"""

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import grpc

from nextact_server.inference.infer_errors import InferError
from nextact_server.inference.infer_request import InferRequest, InferResponse
from nextact_server.rpc.admission import Admission
from nextact_server.rpc.errors import CallError, as_call_error, too_much, unavailable
from nextact_server.rpc.kserve.decode import RequestReader
from nextact_server.rpc.kserve.encode import error_message, final_only, stream_response
from nextact_server.rpc.kserve.request import RpcRequest, request_id
from nextact_server.rpc.kserve.wire import cut

__all__ = ["InferStream", "StreamContext"]

END: Any = grpc.aio.EOF  # type: ignore[attr-defined]
MAX_IN_FLIGHT = 256
"""Requests of one stream that were read and not wholly answered; beyond it no further is read."""
MAX_IN_FLIGHT_BYTES = 64 * 1024 * 1024
"""The same for their bytes; one that is larger goes alone."""
MAX_UNWRITTEN_BYTES = 64 * 1024 * 1024
"""Responses of decoupled models that the client has not read; a model that would add to them waits."""
MESSAGE_OVERHEAD = 256
"""Bytes that a waiting response takes beside its own."""
MAX_STALL_S = 5.0
"""How long a model waits for one client: others may be waiting for that model."""
STATUS_ERRORS = ("triton_grpc_error", "true")
"""Metadata by which a caller wants an error to end the stream, with its status."""


class StreamContext(Protocol):
    """What a stream needs of grpc.aio's context."""

    def read(self) -> Awaitable[Any]: ...
    def write(self, message: bytes) -> Awaitable[None]: ...
    def invocation_metadata(self) -> Any: ...


_Message = bytes | CallError
"""What is written to the stream; an error ends it."""


class _Entry:
    """One request of the stream; `message` is its only response, until its turn to be written comes."""

    __slots__ = ("is_decoupled", "message", "request", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.is_decoupled = False
        self.request: RpcRequest | None = None
        self.message: _Message | None = None


class InferStream:
    """One stream: a reader that runs ahead by a bounded number of requests, and a writer; the sink of its requests."""

    def __init__(
        self,
        context: StreamContext,
        reader: RequestReader,
        submit: Callable[[Sequence[RpcRequest]], None],
        admission: Admission,
    ) -> None:
        self._context = context
        self._reader = reader
        self._submit = submit
        self._admission = admission
        self._loop = asyncio.get_running_loop()
        self._ends_on_error = STATUS_ERRORS in tuple(context.invocation_metadata() or ())
        self._lock = threading.Lock()
        # Guarded by the lock: what can be written, with the entry that it completes; entries whose turn is to come.
        self._ready: list[tuple[_Message | None, _Entry | None]] = []
        self._ordered: deque[_Entry] = deque()
        self._unwritten = 0
        self._is_closed = False
        self._drained = threading.Condition(self._lock)
        self._loop_thread = threading.get_ident()
        # The event loop's own.
        self._in_flight: dict[_Entry, None] = {}
        self._bytes = 0
        self._written = asyncio.Event()
        self._told = asyncio.Event()
        self._read_to_end = False
        self._failure: CallError | None = None

    async def serve(self) -> None:
        """Serve the stream to its end. Raises CallError where it ends with a status other than OK."""
        reading = asyncio.create_task(self._read())
        draining = asyncio.create_task(self._admission.draining.wait())
        draining.add_done_callback(lambda _: reading.cancel())
        try:
            while not self._read_to_end or self._in_flight:
                await self._told.wait()
                self._told.clear()
                await self._write_ready()
            if self._failure is not None:
                raise self._failure
        finally:
            draining.cancel()
            reading.cancel()
            self._close()  # before anything is awaited: a client that goes away while it is written to ends this twice
            await asyncio.gather(draining, reading, return_exceptions=True)

    # The event loop's thread ----------------------------------------------------------------------------------------

    async def _read(self) -> None:
        """Read and submit until the client is done, a message may not come in, or the server drains."""
        try:
            while (payload := await self._context.read()) is not END:
                self._admission.check_size(len(payload))
                await self._wait_for_room(len(payload))
                self._take(payload)
        except asyncio.CancelledError:
            self._failure = unavailable("the server is stopping; what was not answered is to be sent again")
        except Exception as error:
            self._failure = as_call_error(error)
        self._read_to_end = True
        self._told.set()

    async def _wait_for_room(self, size: int) -> None:
        while self._in_flight and (len(self._in_flight) >= MAX_IN_FLIGHT or self._bytes + size > MAX_IN_FLIGHT_BYTES):
            self._written.clear()
            await self._written.wait()

    def _take(self, payload: bytes) -> None:
        entry = _Entry(len(payload))
        self._in_flight[entry] = None
        self._bytes += entry.size
        id_field = b""
        try:
            parts = cut(payload)
            id_field = parts.id
            request = self._reader.read(parts, self, unary=False)
        except Exception as error:
            self._queue(entry)
            self._answer(
                entry, as_call_error(error) if self._ends_on_error else error_message(_text(error), _echo(id_field))
            )
            return
        request.key = entry
        entry.request = request
        if request.plan.spec.decoupled:
            entry.is_decoupled = True
        else:
            self._queue(entry)
        self._submit([request])

    def _queue(self, entry: _Entry) -> None:
        with self._lock:
            self._ordered.append(entry)

    async def _write_ready(self) -> None:
        with self._lock:
            ready, self._ready = self._ready, []
        for message, completed in ready:
            if isinstance(message, CallError):
                raise message
            if message is not None:
                await self._context.write(message)
                if completed is None or completed.is_decoupled:
                    self._note_written(len(message))
            if completed is not None:
                del self._in_flight[completed]
                self._bytes -= completed.size
                self._written.set()

    def _note_written(self, size: int) -> None:
        with self._lock:
            self._unwritten -= size + MESSAGE_OVERHEAD
            if self._unwritten < MAX_UNWRITTEN_BYTES:
                self._drained.notify_all()

    def _close(self) -> None:
        """Whatever is still being done is for nobody."""
        with self._lock:
            self._is_closed = True
            self._drained.notify_all()
        for entry in self._in_flight:
            if entry.request is not None:
                entry.request.cancel()

    # Responses, on any thread ---------------------------------------------------------------------------------------

    def respond(self, request: InferRequest, response: InferResponse | InferError | None, final: bool) -> None:
        """Take one response; see `ResponseSink`."""
        assert isinstance(request, RpcRequest)
        if self._is_closed:
            return
        entry: _Entry = request.key
        spec = request.plan.spec
        if spec.decoupled:
            request.sending(response)
            self._add(entry, self._message(request, response, final), complete=final)
            request.sent(final=final)
            return
        outcome = request.only_response(response, final=final)
        if outcome is not None:
            request.sending(outcome)
            message = self._message(request, outcome, final=True)
            assert message is not None
            self._answer(entry, message)
            request.sent(final=True)

    def _message(
        self, request: RpcRequest, response: InferResponse | InferError | None, final: bool
    ) -> _Message | None:
        """The message of a response; None where there is nothing to be said."""
        if response is None:
            return final_only(request) if request.empty_final else None
        try:
            if isinstance(response, InferResponse):
                return stream_response(request, response, final=final)
            raise response
        except Exception as error:
            if self._ends_on_error:
                return as_call_error(error)
            return error_message(_text(error), request.id_field, request.plan.spec.name, final=final)

    def _answer(self, entry: _Entry, message: _Message) -> None:
        """Give a queued request its one message; it is ready once all before it are."""
        with self._lock:
            entry.message = message
            was_idle = not self._ready
            while self._ordered and self._ordered[0].message is not None:
                first = self._ordered.popleft()
                self._ready.append((first.message, first))
            self._wake(was_idle)

    def _add(self, entry: _Entry, message: _Message | None, *, complete: bool) -> None:
        """Give a decoupled request a message, if there is one, and its end; waits for a client that reads slowly."""
        with self._lock:
            if not isinstance(message, bytes) or self._unwritten < MAX_UNWRITTEN_BYTES or self._has_room():
                if isinstance(message, bytes):
                    self._unwritten += len(message) + MESSAGE_OVERHEAD
                was_idle = not self._ready
                self._ready.append((message, entry if complete else None))
                self._wake(was_idle)
                return
            self._give_up()
        if entry.request is not None:
            entry.request.cancel()

    def _has_room(self) -> bool:
        """Whether there is room for one more response, now or before long; the lock is held."""
        if threading.get_ident() == self._loop_thread:  # which is the one that writes
            return True
        self._drained.wait_for(lambda: self._is_closed or self._unwritten < MAX_UNWRITTEN_BYTES, MAX_STALL_S)
        return self._is_closed or self._unwritten < MAX_UNWRITTEN_BYTES

    def _give_up(self) -> None:
        """End the stream of a client that does not read, behind what waits for it; the lock is held."""
        if self._is_closed:
            return
        waiting = f"{MAX_UNWRITTEN_BYTES} bytes of responses wait for the client"
        was_idle = not self._ready
        self._ready.append((too_much(f"{waiting}, which read none of them for {MAX_STALL_S:g} s"), None))
        self._wake(was_idle)
        self._is_closed = True
        self._loop.call_soon_threadsafe(self._close)

    def _wake(self, was_idle: bool) -> None:
        # One call per emptying of the list is enough, and each costs the loop a wake-up.
        if was_idle and self._ready and not self._is_closed:
            self._loop.call_soon_threadsafe(self._told.set)


def _text(error: Exception) -> str:
    """What a message says of an error; unlike a status it has room for all of it."""
    return error.message if isinstance(error, InferError) else as_call_error(error).message


def _echo(id_field: bytes) -> bytes:
    """The id of a message that was refused, as far as an answer can hold it: it may be what was wrong with it."""
    try:
        request_id(id_field)
    except CallError:
        return b""
    return id_field
