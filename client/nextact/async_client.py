"""The client for asyncio."""

# ruff: noqa: ASYNC109 - a timeout is the deadline that gRPC tells the server, which asyncio.timeout cannot do

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

import grpc
import grpc.aio

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


class AsyncClient:
    """`Client` for asyncio: the same methods and arguments, awaited. Belongs to the event loop of its first call."""

    def __init__(
        self,
        target: str = "127.0.0.1:8001",
        *,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Iterable[tuple[str, str]] = (),
        deadlines: Deadlines | None = None,
        options: ChannelOptions = (),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._target = target
        self._credentials = credentials
        self._arguments = channel_options(options)
        self._metadata = tuple(metadata)
        self._deadlines = deadlines or Deadlines()
        self._sleep = sleep
        self._channel: grpc.aio.Channel | None = None
        self._stub: Any = None

    async def __aenter__(self) -> Self:
        self._connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection; calls under way fail as CANCELLED."""
        if self._channel is not None:
            await self._channel.close(None)

    async def predict(
        self,
        events: Iterable[EventLike] = (),
        *,
        history: Iterable[EventLike] = (),
        request_id: str = "",
        timeout: float | None = None,
        **options: Unpack[PredictOptions],
    ) -> PredictAnswer:
        """See `Client.predict`."""
        return await self._call(calls.predict(events, history, request_id, options), timeout)

    def stream(
        self,
        batches: Iterable[Batch] | AsyncIterable[Batch],
        *,
        predictions: StreamPredictions | str = StreamPredictions.NONE,
        id_prefix: str = "",
        retry: StreamRetry | None = None,
        timeout: float | None = None,
        **options: Unpack[PredictOptions],
    ) -> AsyncGenerator[StreamAck]:
        """See `Client.stream`. A plain iterable is read on the event loop: give an asynchronous one where it blocks.

        Use `contextlib.aclosing` to end the stream early.
        """
        # pyarrow takes 0.25 s to import: those who stream have it anyway.
        from nextact.async_stream import AsyncStream
        from nextact.stream_batches import BatchEncoder
        from nextact.stream_session import StreamSession

        stub = self._connect()
        encoder = BatchEncoder(predictions, options, id_prefix or new_message_id())
        stream = AsyncStream(
            batches,
            encoder,
            StreamSession(retry or StreamRetry()),
            lambda requests: stub.StreamEvents(requests, timeout=timeout, metadata=self._metadata),
        )
        return stream.run(self._sleep)

    async def embed(self, contents: Iterable[ContentLike], *, timeout: float | None = None) -> EmbedAnswer:
        """See `Client.embed`."""
        return responses.embed_answer([await self._call(part, timeout) for part in calls.embed(contents)])

    async def rank(
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
        """See `Client.rank`."""
        return await self._call(calls.rank(user_id, anonymous_id, candidates, top_k, filter, as_of), timeout)

    async def upsert_items(self, items: Iterable[Item], *, timeout: float | None = None) -> list[ItemResult]:
        """See `Client.upsert_items`."""
        return [result for part in calls.upsert_items(items) for result in await self._call(part, timeout)]

    async def get_item(self, item_id: str, *, timeout: float | None = None) -> Item:
        """See `Client.get_item`."""
        return await self._call(calls.get_item(item_id), timeout)

    async def delete_item(self, item_id: str, *, timeout: float | None = None) -> bool:
        """See `Client.delete_item`."""
        return await self._call(calls.delete_item(item_id), timeout)

    async def list_items(self, *, page_size: int = 0, timeout: float | None = None) -> AsyncIterator[Item]:
        """See `Client.list_items`."""
        token = ""
        while True:
            items, token = await self._call(calls.list_items(page_size, token), timeout)
            for item in items:
                yield item
            if not token:
                return

    async def get_user(
        self,
        user_id: str = "",
        *,
        anonymous_id: str = "",
        page_size: int = 0,
        page_token: str = "",
        timeout: float | None = None,
    ) -> User:
        """See `Client.get_user`."""
        return await self._call(calls.get_user(user_id, anonymous_id, page_size, page_token), timeout)

    async def delete_user(
        self, user_id: str = "", *, anonymous_id: str = "", suppress: bool = False, timeout: float | None = None
    ) -> bool:
        """See `Client.delete_user`."""
        return await self._call(calls.delete_user(user_id, anonymous_id, suppress), timeout)

    def _connect(self) -> Any:
        # Not in the constructor: an asyncio channel is bound to the loop that runs when it is made.
        if self._channel is None:
            self._channel = (
                grpc.aio.insecure_channel(self._target, options=self._arguments)
                if self._credentials is None
                else grpc.aio.secure_channel(self._target, self._credentials, options=self._arguments)
            )
            self._stub = BehaviorServiceStub(self._channel)  # type: ignore[no-untyped-call]  # generated
        return self._stub

    async def _call(self, call: Call[R], timeout: float | None) -> R:
        rpc = getattr(self._connect(), rpc_name(call.method))
        seconds = self._deadlines.seconds(call.method, timeout)
        try:
            response = await rpc(call.request, timeout=seconds, metadata=self._metadata)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        return call.parse(response)
