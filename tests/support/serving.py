"""A real server inside the test's process: on an event loop in a thread, on a free port, over either transport."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import uvloop

from nextact import Client
from nextact.v1.behavior_pb2_grpc import BehaviorServiceStub
from nextact_server.app import App
from nextact_server.features.content import ContentEncoder
from nextact_server.settings import Settings
from nextact_server.storage.seam import Store

ROOT = Path(__file__).resolve().parents[2]
SHIPPED_MODELS = ROOT / "model_repository"
TRANSPORTS = ("native", "grpcio")
SERVICE = "nextact.v1.BehaviorService"
LARGE = 64 * 1024 * 1024
PATIENCE = 15
"""Seconds after which a test that waits for something says that it does not come."""


class LoopThread:
    """An event loop on a thread of its own."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="test-loop", daemon=True)
        self._thread.start()
        self._leaving: list[Any] = []

    def start(self, task: Coroutine[Any, Any, Any]) -> Any:
        """Starts a coroutine there; the future is its result, which `close` waits for if nobody else does."""
        future = asyncio.run_coroutine_threadsafe(task, self._loop)
        self._leaving = [one for one in self._leaving if not one.done() or one.exception() is not None]
        self._leaving.append(future)
        return future

    def run(self, task: Coroutine[Any, Any, Any], timeout: float = 60) -> Any:
        """Runs a coroutine there, and returns its result."""
        return asyncio.run_coroutine_threadsafe(task, self._loop).result(timeout)

    def close(self) -> None:
        """Ends the loop and its thread, once everything that was started there has ended well."""
        for future in self._leaving:
            future.result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Lent:
    """A content encoder that outlives the server it is lent to."""

    def __init__(self, encoder: ContentEncoder) -> None:
        self._encoder = encoder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def close(self) -> None:
        """Leaves the encoder to its owner."""


class AppWithContent(App):
    """The server with content encoders that are already there."""

    def __init__(self, settings: Settings, store: Store | None, content: ContentEncoder) -> None:
        super().__init__(settings, store)
        self._lent = Lent(content)

    def _load_content(self) -> Any:
        return self._lent


class Serving:
    """A running server, and a connection to it that never tries again by itself."""

    def __init__(self, app: App, grpc_address: str, metrics_address: str, loop: LoopThread) -> None:
        self.app = app
        self.store: Any = app.store
        self.target = grpc_address
        self.metrics = metrics_address
        self._loop = loop
        self.channel = connect(grpc_address)
        self.stub = BehaviorServiceStub(self.channel)
        self._stopped = False

    def client(self, **arguments: Any) -> Client:
        """A client of the SDK."""
        return Client(self.target, **arguments)

    def raw(self, method: str, payload: bytes, timeout: float = PATIENCE) -> bytes:
        """One unary call of bytes."""
        call = self.channel.unary_unary(f"/{SERVICE}/{method}")
        return bytes(call(payload, timeout=timeout))

    def begin_stop(self) -> "asyncio.Future[None]":
        """Starts to drain the server; the future is done when it has stopped."""
        self._stopped = True
        return self._loop.start(self.app.stop())  # type: ignore[no-any-return]

    def stop(self) -> None:
        """Lets the server drain, which the next test does not wait for, and closes the connection."""
        if not self._stopped:
            self.begin_stop()
        self.channel.close()


def connect(target: str, credentials: grpc.ChannelCredentials | None = None, *options: tuple[str, Any]) -> grpc.Channel:
    """A channel of its own connection, without retries and with no bound on what it sends or takes."""
    arguments = [
        ("grpc.enable_retries", 0),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        *options,
    ]
    if credentials is None:
        return grpc.insecure_channel(target, arguments)
    return grpc.secure_channel(target, credentials, arguments)


def settings_for(repository: Path, data_dir: Path, transport: str, **changes: Any) -> Settings:
    """Settings of a server for tests: free ports, short drain."""
    fields = {
        "grpc_port": 0,
        "metrics_port": 0,
        "grpc_server": transport,
        "model_repository": repository,
        "data_dir": data_dir,
        "drain_seconds": 5.0,
        "resident_users": 16384,
    }
    return Settings(**{**fields, **changes}, _cli_parse_args=False)


def start(loop: LoopThread, settings: Settings, store: Store | None, content: ContentEncoder) -> Serving:
    """Starts a server."""
    app = AppWithContent(settings, store, content)
    addresses = loop.run(app.start())
    return Serving(app, addresses.grpc, addresses.metrics, loop)


@contextmanager
def serving(loop: LoopThread, settings: Settings, store: Store | None, content: ContentEncoder) -> Iterator[Serving]:
    """A server for the length of a `with`."""
    server = start(loop, settings, store, content)
    try:
        yield server
    finally:
        server.stop()


StartServer = Callable[..., Serving]
"""(store=None, content=None, **settings) -> a server for the length of the test."""
