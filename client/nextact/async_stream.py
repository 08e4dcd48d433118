"""StreamEvents for asyncio: one task reads the source, gRPC's task sends, the caller takes the acknowledgements.

The reading task outlives a connection: what it has in hand when one is lost goes out on the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import Any

import grpc

from nextact.errors import NextactError, from_rpc_error
from nextact.stream_batches import Batch, BatchEncoder
from nextact.stream_session import StreamSession, stream_ack
from nextact.stream_window import WindowLimits
from nextact.types import StreamAck
from nextact.v1 import behavior_pb2 as pb

Open = Callable[[AsyncIterator[pb.StreamEventsRequest]], Any]
"""Starts the RPC with its requests and returns the call."""


class AsyncStream:
    """One stream of events over as many connections as it takes; `run` may be called once."""

    def __init__(
        self,
        batches: Iterable[Batch] | AsyncIterable[Batch],
        encoder: BatchEncoder,
        session: StreamSession,
        open_call: Open,
    ) -> None:
        self._batches = batches
        self._encoder = encoder
        self._session = session
        self._open_call = open_call
        self._changed = asyncio.Condition()
        self._connection = 0  # the number of the connection that may send; others stop

    async def run(self, sleep: Callable[[float], Awaitable[None]]) -> AsyncGenerator[StreamAck]:
        """Yields the acknowledgements, in order. An error of the source is raised after those of all it gave before.

        Raises:
            NextactError: the stream failed for good.
        """
        reader = asyncio.create_task(self._read_source(), name="nextact-stream-source")
        try:
            while True:
                error: NextactError | None = None
                try:
                    # aclosing: a caller that breaks off ends the call at once, not when the generator is collected
                    async with aclosing(self._connected()) as acknowledgements:
                        async for acknowledgement in acknowledgements:
                            yield acknowledgement
                except grpc.RpcError as raised:
                    error = _as_sent(from_rpc_error(raised))
                if self._session.window.done:
                    break
                await sleep(self._session.lose(error))
            await reader
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _connected(self) -> AsyncGenerator[StreamAck]:
        self._connection += 1
        call = self._open_call(self._requests(self._connection))
        try:
            self._session.window.announce(WindowLimits.from_metadata(await call.initial_metadata()))
            await self._notify()
            async for response in call:
                message = self._session.acknowledge(response.number)
                await self._notify()
                yield stream_ack(message, response)
        finally:
            self._connection += 1
            call.cancel()
            await self._notify()

    async def _requests(self, connection: int) -> AsyncIterator[pb.StreamEventsRequest]:
        window = self._session.window
        while True:
            async with self._changed:
                await self._changed.wait_for(
                    lambda: self._connection != connection or window.can_send or window.all_sent
                )
                if self._connection != connection or not window.can_send:
                    return
                message = window.send()
                self._changed.notify_all()
            yield message.request

    async def _read_source(self) -> None:
        window = self._session.window
        try:
            async for batch in _each(self._batches):
                for message in self._encoder.messages(batch):
                    async with self._changed:
                        await self._changed.wait_for(lambda: window.wants_more)
                        self._session.add(message)
                        self._changed.notify_all()
        finally:
            window.complete()
            await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def _as_sent(error: NextactError) -> NextactError:
    """Undoes grpc.aio's loss of a status: a write that fails because the server ended the call hides how it ended.

    What is left is INTERNAL "Internal error from Core" (https://github.com/grpc/grpc/issues/36066). Connecting again
    is right if it was UNAVAILABLE, and otherwise brings the server to say again what was wrong.
    """
    if error.code is grpc.StatusCode.INTERNAL and error.message == "Internal error from Core":
        return NextactError(grpc.StatusCode.UNAVAILABLE, "the server ended the stream during a write")
    return error


async def _each(batches: Iterable[Batch] | AsyncIterable[Batch]) -> AsyncIterator[Batch]:
    if isinstance(batches, AsyncIterable):
        async for batch in batches:
            yield batch
    else:
        for batch in batches:
            yield batch
