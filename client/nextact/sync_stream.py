"""StreamEvents for threads.

One thread of ours reads the source and builds messages, gRPC's own thread sends them, and the caller's thread takes
the acknowledgements. They share one session under one condition. The reader outlives a connection: what it has in hand
when one is lost goes out on the next.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

import grpc

from nextact.errors import NextactError, from_rpc_error
from nextact.stream_batches import Batch, BatchEncoder
from nextact.stream_session import StreamSession, stream_ack
from nextact.stream_window import WindowLimits
from nextact.types import StreamAck
from nextact.v1 import behavior_pb2 as pb

Open = Callable[[Iterator[pb.StreamEventsRequest]], Any]
"""Starts the RPC with its requests and returns the call."""


class SyncStream:
    """One stream of events over as many connections as it takes; `run` may be called once."""

    def __init__(
        self, batches: Iterable[Batch], encoder: BatchEncoder, session: StreamSession, open_call: Open
    ) -> None:
        self._batches = batches
        self._encoder = encoder
        self._session = session
        self._open_call = open_call
        self._changed = threading.Condition()
        self._connection = 0  # the number of the connection that may send; others stop
        self._closed = False
        self._source_error: BaseException | None = None

    def run(self, sleep: Callable[[float], None]) -> Generator[StreamAck]:
        """Yields the acknowledgements, in order. An error of the source is raised after those of all it gave before.

        Raises:
            NextactError: the stream failed for good.
        """
        reader = threading.Thread(target=self._read_source, name="nextact-stream-source", daemon=True)
        reader.start()
        try:
            while True:
                error: NextactError | None = None
                try:
                    yield from self._connected()
                except grpc.RpcError as raised:
                    error = from_rpc_error(raised)
                with self._changed:
                    if self._session.window.done:
                        break
                    pause = self._session.lose(error)
                sleep(pause)
        finally:
            with self._changed:
                self._closed = True
                self._changed.notify_all()
        if self._source_error is not None:
            raise self._source_error

    def _connected(self) -> Iterator[StreamAck]:
        with self._changed:
            self._connection += 1
            connection = self._connection
        call = self._open_call(self._requests(connection))
        try:
            limits = WindowLimits.from_metadata(call.initial_metadata())
            with self._changed:
                self._session.window.announce(limits)
                self._changed.notify_all()
            for response in call:
                with self._changed:
                    message = self._session.acknowledge(response.number)
                    self._changed.notify_all()
                yield stream_ack(message, response)
        finally:
            with self._changed:
                self._connection += 1
                self._changed.notify_all()
            call.cancel()

    def _requests(self, connection: int) -> Iterator[pb.StreamEventsRequest]:
        window = self._session.window
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._connection != connection or window.can_send or window.all_sent)
                if self._connection != connection or not window.can_send:
                    return
                message = window.send()
                self._changed.notify_all()
            yield message.request

    def _read_source(self) -> None:
        window = self._session.window
        try:
            for batch in self._batches:
                for message in self._encoder.messages(batch):
                    with self._changed:
                        self._changed.wait_for(lambda: self._closed or window.wants_more)
                        if self._closed:
                            return
                        self._session.add(message)
                        self._changed.notify_all()
        except BaseException as error:  # whatever it is, it belongs to the caller's thread
            self._source_error = error
        finally:
            with self._changed:
                window.complete()
                self._changed.notify_all()
