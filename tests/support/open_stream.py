"""One StreamEvents call that a test drives message by message."""

import queue
from collections.abc import Iterator
from typing import Any

import grpc
from support.serving import PATIENCE, SERVICE

from nextact.v1 import behavior_pb2 as pb

_END = object()


class OpenStream:
    """Sends what it is given, as message or as bytes; `receive` and `failure` wait for what comes back."""

    def __init__(self, channel: grpc.Channel, timeout: float = PATIENCE) -> None:
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.taken = 0
        """How many messages the transport asked for so far."""
        method = channel.stream_stream(
            f"/{SERVICE}/StreamEvents",
            request_serializer=lambda message: message if isinstance(message, bytes) else message.SerializeToString(),
            response_deserializer=pb.StreamEventsResponse.FromString,
        )
        self.call: Any = method(self._requests(), timeout=timeout)

    def send(self, *messages: Any) -> "OpenStream":
        """Queues messages to be sent."""
        for message in messages:
            self._queue.put(message)
        return self

    def done(self) -> "OpenStream":
        """Says that no more messages come."""
        self._queue.put(_END)
        return self

    def receive(self) -> pb.StreamEventsResponse:
        """The next acknowledgement."""
        return next(self.call)  # type: ignore[no-any-return]

    def rest(self) -> list[pb.StreamEventsResponse]:
        """All acknowledgements to the end of the stream, after `done`."""
        self.done()
        return list(self.call)

    def failure(self) -> tuple[list[pb.StreamEventsResponse], grpc.RpcError]:
        """What still was acknowledged, and the error that ended the stream."""
        received: list[pb.StreamEventsResponse] = []
        try:
            received.extend(self.call)
        except grpc.RpcError as error:
            return received, error
        finally:
            self.done()
        raise AssertionError("the stream ended with OK")

    def cancel(self) -> None:
        """Goes away."""
        self.call.cancel()
        self.done()

    def _requests(self) -> Iterator[Any]:
        while (message := self._queue.get()) is not _END:
            self.taken += 1
            yield message


def outcome(stream: OpenStream) -> str:
    """The name of the status that a stream ends with."""
    try:
        list(stream.call)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"
