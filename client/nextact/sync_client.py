"""The client for threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar, Unpack

import grpc

from nextact import calls, responses
from nextact.calls import Call
from nextact.channel import ChannelOptions, Deadlines, StreamRetry, channel_options, rpc_name
from nextact.errors import from_rpc_error
from nextact.messages import PredictOptions, new_message_id
from nextact.types import (
    ContentLike,
    EmbedAnswer,
    EventLike,
    Item,
    ItemFilter,
    ItemResult,
    PredictAnswer,
    RankAnswer,
    StreamAck,
    StreamPredictions,
    Time,
    User,
)
from nextact.v1.behavior_pb2_grpc import BehaviorServiceStub

if TYPE_CHECKING:
    from nextact.stream_batches import Batch

R = TypeVar("R")


class Client:
    """Talks to one nextact server over one HTTP/2 connection. Safe to share between threads.

    Every call raises `NextactError`. A call is repeated on UNAVAILABLE, within its deadline; `timeout` (seconds, in
    all) stands in for the deadline of one call.

    Args:
        target: the server's address, "host:port" or any gRPC name.
        credentials: TLS, as `grpc.ssl_channel_credentials()` makes them. None: plaintext.
        metadata: sent with every call, such as ("authorization", "Bearer ...").
        deadlines: seconds per method.
        options: more gRPC channel arguments.
        sleep: how a stream waits before it connects again.
    """

    def __init__(
        self,
        target: str = "127.0.0.1:8001",
        *,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Iterable[tuple[str, str]] = (),
        deadlines: Deadlines | None = None,
        options: ChannelOptions = (),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        arguments = channel_options(options)
        self._channel = (
            grpc.insecure_channel(target, options=arguments)
            if credentials is None
            else grpc.secure_channel(target, credentials, options=arguments)
        )
        self._stub = BehaviorServiceStub(self._channel)  # type: ignore[no-untyped-call]  # generated
        self._metadata = tuple(metadata)
        self._deadlines = deadlines or Deadlines()
        self._sleep = sleep

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; calls under way fail as CANCELLED."""
        self._channel.close()

    def predict(
        self,
        events: Iterable[EventLike] = (),
        *,
        history: Iterable[EventLike] = (),
        request_id: str = "",
        timeout: float | None = None,
        **options: Unpack[PredictOptions],
    ) -> PredictAnswer:
        """Applies events, in order, and answers who their users are now and what they do next.

        With `history`, a stateless call: the whole past comes along and nothing is recorded. For `options` see
        `PredictOptions`.
        """
        return self._call(calls.predict(events, history, request_id, options), timeout)

    def stream(
        self,
        batches: Iterable[Batch],
        *,
        predictions: StreamPredictions | str = StreamPredictions.NONE,
        id_prefix: str = "",
        retry: StreamRetry | None = None,
        timeout: float | None = None,
        **options: Unpack[PredictOptions],
    ) -> Generator[StreamAck]:
        """Sends batches of events and yields their acknowledgements, in order, as the events become durable.

        A batch is a list of events, or a pyarrow RecordBatch or Table with columns named as the fields of Event. No
        more is sent ahead than the server's window. When the connection is lost, what was not acknowledged is sent
        again under the same message ids. The source is read in a thread of its own. Close the generator
        (`contextlib.closing`) to end the stream early.

        Args:
            batches: the events.
            predictions: none, the last of each user of a batch, or one per event. For Arrow they come as columns.
            id_prefix: makes the ids of events that have none, `<id_prefix>-<row>`; the same source sent again under
                the same prefix counts once. Default: a random one.
            retry: how often and how fast to connect again.
            timeout: seconds for each connection of the stream. Default: no limit.
            options: see `PredictOptions`.
        """
        # pyarrow takes 0.25 s to import: those who stream have it anyway.
        from nextact.stream_batches import BatchEncoder
        from nextact.stream_session import StreamSession
        from nextact.sync_stream import SyncStream

        encoder = BatchEncoder(predictions, options, id_prefix or new_message_id())
        stream = SyncStream(
            batches,
            encoder,
            StreamSession(retry or StreamRetry()),
            lambda requests: self._stub.StreamEvents(requests, timeout=timeout, metadata=self._metadata),
        )
        return stream.run(self._sleep)

    def embed(self, contents: Iterable[ContentLike], *, timeout: float | None = None) -> EmbedAnswer:
        """Turns texts and images into vectors; over 256 contents go in several calls."""
        return responses.embed_answer(self._call(part, timeout) for part in calls.embed(contents))

    def rank(
        self,
        user_id: str = "",
        *,
        anonymous_id: str = "",
        candidates: Iterable[str] = (),
        top_k: int = 0,
        filter: ItemFilter | None = None,
        as_of: Time | None = None,
        timeout: float | None = None,
    ) -> RankAnswer:
        """Scores candidates (default: the catalogue) for a user as they are now; records nothing."""
        return self._call(calls.rank(user_id, anonymous_id, candidates, top_k, filter, as_of), timeout)

    def upsert_items(self, items: Iterable[Item], *, timeout: float | None = None) -> list[ItemResult]:
        """Registers or replaces items, in as many calls as it takes; one result per item, in order."""
        return [result for part in calls.upsert_items(items) for result in self._call(part, timeout)]

    def get_item(self, item_id: str, *, timeout: float | None = None) -> Item:
        """Returns one item with its image; NOT_FOUND if there is none."""
        return self._call(calls.get_item(item_id), timeout)

    def delete_item(self, item_id: str, *, timeout: float | None = None) -> bool:
        """Removes one item; returns whether there was one."""
        return self._call(calls.delete_item(item_id), timeout)

    def list_items(self, *, page_size: int = 0, timeout: float | None = None) -> Iterator[Item]:
        """Yields the catalogue by item_id, without images; `timeout` is that of a page."""
        token = ""
        while True:
            items, token = self._call(calls.list_items(page_size, token), timeout)
            yield from items
            if not token:
                return

    def get_user(
        self,
        user_id: str = "",
        *,
        anonymous_id: str = "",
        page_size: int = 0,
        page_token: str = "",
        timeout: float | None = None,
    ) -> User:
        """Returns what is held about a user, a page of the history at a time; NOT_FOUND for one never seen."""
        return self._call(calls.get_user(user_id, anonymous_id, page_size, page_token), timeout)

    def delete_user(
        self, user_id: str = "", *, anonymous_id: str = "", suppress: bool = False, timeout: float | None = None
    ) -> bool:
        """Erases a user, and with `suppress` refuses their later events; returns whether anything was held."""
        return self._call(calls.delete_user(user_id, anonymous_id, suppress), timeout)

    def _call(self, call: Call[R], timeout: float | None) -> R:
        rpc = getattr(self._stub, rpc_name(call.method))
        seconds = self._deadlines.seconds(call.method, timeout)
        try:
            response = rpc(call.request, timeout=seconds, metadata=self._metadata)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        return call.parse(response)
