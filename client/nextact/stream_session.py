"""What a stream decides, whatever carries it: what to send, how to read an acknowledgement, when to connect again."""

from __future__ import annotations

import random
from collections.abc import Callable

import grpc

from nextact import responses
from nextact.channel import StreamRetry
from nextact.errors import NextactError
from nextact.stream_batches import StreamMessage
from nextact.stream_window import StreamWindow, UnexpectedAcknowledgement
from nextact.types import StreamAck
from nextact.v1 import behavior_pb2 as pb


def stream_ack(message: StreamMessage, response: pb.StreamEventsResponse) -> StreamAck:
    """Reads the acknowledgement of a message."""
    return StreamAck(
        number=response.number,
        batch=message.batch,
        offset=message.offset,
        events=message.events,
        accepted=response.accepted,
        duplicates=response.duplicates,
        failures=tuple(responses.event_result(m) for m in response.failures),
        predictions=tuple(responses.prediction(m) for m in response.predictions),
        columns=responses.prediction_columns(response.columns) if response.HasField("columns") else None,
        model=responses.model(response.model),
    )


class StreamSession:
    """The state of one stream across its connections. Not thread-safe: the owner locks."""

    def __init__(self, retry: StreamRetry, jitter: Callable[[], float] = random.random) -> None:
        self.window: StreamWindow[StreamMessage] = StreamWindow()
        self._retry = retry
        self._jitter = jitter
        self._attempts = 0

    def add(self, message: StreamMessage) -> None:
        """Takes the next message of the source and numbers it."""
        message.request.number = self.window.add(message, message.size)

    def acknowledge(self, number: int) -> StreamMessage:
        """Returns the message of that number, which is done.

        Raises:
            NextactError: it is not the one that is due.
        """
        try:
            message = self.window.acknowledge(number)
        except UnexpectedAcknowledgement as error:
            raise NextactError(grpc.StatusCode.INTERNAL, str(error)) from error
        self._attempts = 0
        return message

    def lose(self, error: NextactError | None) -> float:
        """Says that the connection ended (error None: with OK, too early) and returns the pause before the next.

        Raises:
            NextactError: trying again cannot help, or was tried often enough.
        """
        if error is None:
            error = NextactError(grpc.StatusCode.UNAVAILABLE, "the server ended the stream before its last message")
        if error.code is not grpc.StatusCode.UNAVAILABLE:
            raise error
        self.window.lose()
        self._attempts += 1
        if self._attempts > self._retry.attempts:
            raise NextactError(
                error.code,
                f"{error.message} (gave up after {self._retry.attempts} attempts without an acknowledgement; "
                f"{self.window.unacknowledged} messages are not acknowledged)",
                retry_after_s=error.retry_after_s,
            )
        return max(self._retry.pause(self._attempts, self._jitter()), error.retry_after_s or 0.0)
