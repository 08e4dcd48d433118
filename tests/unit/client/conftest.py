from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from typing import Any

import pytest
from fake_server import FakeServer
from pauses import Pauses

from nextact import AsyncClient, Client, Deadlines


class Blocking:
    """An AsyncClient on a loop of its own, with the manners of a Client, so that one test holds both to one promise."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = AsyncClient(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            async def started() -> Any:  # on the loop, where generators and channels belong
                answer = method(*args, **kwargs)
                return await answer if inspect.isawaitable(answer) else answer

            answer = self._loop.run_until_complete(started())
            return self._each(answer) if inspect.isasyncgen(answer) else answer

        return call

    def _each(self, values: Any) -> Iterator[Any]:
        try:
            while True:
                try:
                    yield self._loop.run_until_complete(anext(values))
                except StopAsyncIteration:
                    return
        finally:
            self._loop.run_until_complete(values.aclose())

    def end(self) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.close()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()
    yield fake
    fake.stop()


@pytest.fixture
def pauses() -> Pauses:
    return Pauses()


@pytest.fixture(params=["sync", "asyncio"])
def client(request: pytest.FixtureRequest, server: FakeServer, pauses: Pauses) -> Iterator[Any]:
    metadata = [("authorization", "Bearer x")]
    deadlines = Deadlines(predict=30, rank=30, get_item=30, delete_item=30, list_items=30, get_user=30)
    if request.param == "sync":
        with Client(server.target, metadata=metadata, deadlines=deadlines, sleep=pauses.sleep) as client:
            yield client
    else:
        blocking = Blocking(server.target, metadata=metadata, deadlines=deadlines, sleep=pauses.sleep_async)
        yield blocking
        blocking.end()
