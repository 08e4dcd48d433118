"""StreamEvents: many messages in flight, acknowledged in order once durable, within a window."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import grpc

from nextact.v1 import behavior_pb2 as pb
from nextact_server.events.arrow import ArrowError, read_events
from nextact_server.events.batch import EventBatch
from nextact_server.events.call import Call
from nextact_server.inference.batcher import QueueFull
from nextact_server.pipeline import Pipeline, Submission
from nextact_server.rpc.admission import Admission
from nextact_server.rpc.decode import STREAM_PER, check_ranked, event_columns, options_of, parse
from nextact_server.rpc.encode import Encoder
from nextact_server.rpc.errors import CallError, as_call_error, invalid, unavailable
from nextact_server.rpc.limits import Limits

END: Any = grpc.aio.EOF  # type: ignore[attr-defined]
WINDOW_KEY = "nextact-window"
METHOD = "StreamEvents"


class StreamContext(Protocol):
    """What a stream needs of grpc.aio's context."""

    def read(self) -> Awaitable[Any]: ...
    def write(self, message: bytes) -> Awaitable[None]: ...
    def send_initial_metadata(self, metadata: Any) -> Awaitable[None]: ...


@dataclass(slots=True)
class _Message:
    """A message that was read: what it became, or why it ends the stream."""

    number: int
    size: int
    submission: Submission | None = None
    columnar: bool = False
    error: CallError | None = None


class StreamService:
    """Serves streams; each is a reader that runs ahead by at most the window, and a writer that acknowledges."""

    def __init__(self, pipeline: Pipeline, encoder: Encoder, admission: Admission, limits: Limits) -> None:
        self._pipeline = pipeline
        self._encoder = encoder
        self._admission = admission
        self._limits = limits

    async def serve(self, context: StreamContext) -> None:
        """Serves one stream to its end. Raises CallError where it ends with a status other than OK."""
        window = f"messages={self._limits.window_messages},bytes={self._limits.window_bytes}"
        await context.send_initial_metadata(((WINDOW_KEY, window),))
        stream = _Stream(self._limits)
        reader = asyncio.create_task(self._read(context, stream))
        try:
            while (message := await stream.read.get()) is not None:
                if message.error is not None:
                    raise message.error
                await self._acknowledge(context, message)
                stream.release(message.size)
        finally:
            reader.cancel()
            try:
                await asyncio.gather(reader, return_exceptions=True)
            finally:  # whoever cancels a second time while the reader ends
                stream.withdraw_all(self._pipeline)

    async def _acknowledge(self, context: StreamContext, message: _Message) -> None:
        assert message.submission is not None
        try:
            answer = await asyncio.wrap_future(message.submission.future)
        except asyncio.CancelledError:
            self._pipeline.withdraw(message.submission)
            raise
        except Exception as error:
            raise as_call_error(error) from error
        response = self._encoder.stream_response(message.number, answer, columnar=message.columnar)
        await context.write(response)

    async def _read(self, context: StreamContext, stream: "_Stream") -> None:
        """Reads and submits until the client is done, something is wrong, or the server drains."""
        expected: int | None = None
        # A message follows on all before it: none is applied once one of them may have been lost.
        epoch = self._pipeline.epoch()
        try:
            while True:
                payload = await self._next(context)
                if payload is None:
                    break
                self._admission.check_size(len(payload))
                request = parse(pb.StreamEventsRequest, payload)
                if request.number <= 0 or (expected is not None and request.number != expected):
                    wanted = "above 0" if expected is None else str(expected)
                    raise invalid("number", f"is {request.number}; {wanted} is expected")
                expected = request.number + 1
                await stream.acquire(len(payload))
                submission = await self._submit(request, epoch)
                stream.put(
                    _Message(request.number, len(payload), submission, request.WhichOneof("batch") == "arrow_ipc")
                )
        except asyncio.CancelledError:
            raise
        except Exception as error:
            stream.put(_Message(0, 0, error=as_call_error(error)))
        else:
            stream.read.put_nowait(None)

    async def _next(self, context: StreamContext) -> bytes | None:
        """The next message's bytes, None at the client's end. Raises UNAVAILABLE once the server drains."""
        reading = asyncio.ensure_future(context.read())
        draining = asyncio.ensure_future(self._admission.draining.wait())
        try:
            await asyncio.wait((reading, draining), return_when=asyncio.FIRST_COMPLETED)
        finally:
            draining.cancel()
            if not reading.done():
                reading.cancel()
        if not reading.done() or reading.cancelled():
            raise unavailable("the server is stopping; what was not acknowledged is to be sent again")
        payload = reading.result()
        return None if payload is END else payload

    async def _submit(self, request: pb.StreamEventsRequest, epoch: int) -> Submission:
        batch = self._batch(request)
        if request.predictions not in STREAM_PER:
            raise invalid("predictions", f"{request.predictions} is not a kind of predictions")
        # Streams also carry days gone by, of which the clock of today says nothing.
        options = replace(options_of(request.options, STREAM_PER[request.predictions], self._limits), at_event=True)
        check_ranked(options, batch.size, self._limits)
        call = Call(start=0, stop=batch.size, options=options)
        while True:
            try:
                return self._pipeline.submit(batch, (call,), epoch)
            except QueueFull as refusal:
                # A stream waits for room instead of being refused: it simply reads no further meanwhile.
                await asyncio.wrap_future(self._pipeline.room(batch.size, refusal))

    def _batch(self, request: pb.StreamEventsRequest) -> EventBatch:
        limit = self._limits.stream_events
        if request.WhichOneof("batch") != "arrow_ipc":
            if len(request.rows.events) > limit:
                raise invalid("rows.events", f"{len(request.rows.events)} events; at most {limit} (max_stream_events)")
            return event_columns(request.rows.events)
        try:
            return read_events(request.arrow_ipc, limit, self._limits.message_bytes)
        except ArrowError as error:
            raise invalid("arrow_ipc", str(error)) from error


class _Stream:
    """The window of one stream: how much was read and not yet acknowledged."""

    def __init__(self, limits: Limits) -> None:
        self.read: asyncio.Queue[_Message | None] = asyncio.Queue()
        self._limits = limits
        self._messages = 0
        self._bytes = 0
        self._freed = asyncio.Event()

    async def acquire(self, size: int) -> None:
        """Waits until a message of this size fits; one larger than the window goes alone."""
        limits = self._limits
        while self._messages and (self._messages >= limits.window_messages or self._bytes + size > limits.window_bytes):
            self._freed.clear()
            await self._freed.wait()
        self._messages += 1
        self._bytes += size

    def release(self, size: int) -> None:
        """Says that a message was acknowledged."""
        self._messages -= 1
        self._bytes -= size
        self._freed.set()

    def put(self, message: _Message) -> None:
        """Hands a message on to the writer."""
        self.read.put_nowait(message)

    def withdraw_all(self, pipeline: Pipeline) -> None:
        """Takes back what nobody will be told of."""
        while not self.read.empty():
            message = self.read.get_nowait()
            if message is not None and message.submission is not None:
                pipeline.withdraw(message.submission)
