"""A server's life: start, serve, drain, stop. What it is made of is built in `rooms`."""

import asyncio
import gc
import logging
import shutil
import signal
import tempfile
from dataclasses import dataclass
from typing import Any

import grpc
import torch
from grpc_health.v1 import health, health_pb2
from prometheus_client import start_http_server

from nextact_server.configuration import check_tls, metrics_host, target
from nextact_server.events.status import Status
from nextact_server.features.content import ContentEncoder
from nextact_server.rooms import Rooms, build_rooms, load_content
from nextact_server.rpc.admission import Admission
from nextact_server.rpc.grpcio_server import make_grpcio_server
from nextact_server.rpc.native_server import NativeServer
from nextact_server.settings import Settings
from nextact_server.storage.memory import MemoryStore
from nextact_server.storage.seam import Store
from nextact_server.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a running server can be reached."""

    grpc: str
    metrics: str


class App:
    """A server from settings to its end: `start`, then `stop`. `store` may be given to test with another one."""

    def __init__(self, settings: Settings, store: Store | None = None) -> None:
        self._settings = settings
        self.metrics = Metrics({status: status.name for status in Status})
        self.store = store or MemoryStore(
            message_id_window_s=settings.dedup_days * 86_400, message_ids_per_user=settings.dedup_ids_per_user
        )
        self.admission = Admission(settings.max_message_bytes)
        self._health: Any = health.aio.HealthServicer()  # type: ignore[attr-defined]
        self._metrics_server: Any = None
        self._grpcio: grpc.aio.Server | None = None
        self._native: NativeServer | None = None
        self._socket_dir: str | None = None
        self._closing: list[Any] = []
        self._names: tuple[str, ...] = ("",)
        self._serving = False

    async def start(self) -> Addresses:
        """Loads the models, serves, and returns the addresses.

        Raises what a broken model or a taken port raises; then everything but the store is closed again, and it may be
        called once more.
        """
        self._loop = asyncio.get_running_loop()
        try:
            return await self._start()
        except BaseException:
            await self._close(grace_s=0.0)
            raise

    async def _start(self) -> Addresses:
        settings = self._settings
        check_tls(settings)
        torch.set_num_threads(settings.torch_threads)
        self.admission = Admission(settings.max_message_bytes)
        metrics_port = self._serve_metrics()  # first: what is served cannot fail for want of it any more
        rooms = self._build_rooms()
        # Models of tensors may take their time, and one that asks another waits for its answer.
        await self._loop.run_in_executor(None, rooms.registry.start)
        fallback = make_grpcio_server(
            rooms.doors.services,
            rooms.doors.streams,
            self.admission,
            self._health,
            max_message_bytes=settings.max_message_bytes,
            with_reflection=settings.reflection,
        )
        self._grpcio = fallback
        if settings.grpc_server == "native":
            address = target(settings)
            doors = rooms.doors
            self._native = NativeServer(address, doors.services, doors.bursts, self.admission, self._loop)
            self._socket_dir = tempfile.mkdtemp(prefix="nextact-")
            socket = f"{self._socket_dir}/grpcio.sock"
            fallback.add_insecure_port(f"unix:{socket}")
            await fallback.start()
            self._native.start(socket)
            port = self._native.port
        else:
            port = self._bind(fallback)
            await fallback.start()
        self._names = ("", *rooms.doors.services)
        await self._tell_health(serving=True)
        address = settings.host if settings.host.startswith("unix:") else f"{settings.host}:{port}"
        return Addresses(grpc=address, metrics=f"{metrics_host(settings)}:{metrics_port}")

    async def stop(self) -> None:
        """Drains: refuses new calls, answers those in flight within drain_seconds, then frees everything.

        Also a server whose start failed; what was stopped is not started again.
        """
        self.admission.drain()
        await self._health.enter_graceful_shutdown()
        await self._close(self._settings.drain_seconds)
        await asyncio.get_running_loop().run_in_executor(None, self.store.close)

    async def _close(self, grace_s: float) -> None:
        """Undoes what was started, however far that came."""
        self.admission.drain()
        loop = asyncio.get_running_loop()
        end = loop.time() + grace_s
        grpcio, self._grpcio = self._grpcio, None
        native, self._native = self._native, None
        socket_dir, self._socket_dir = self._socket_dir, None
        # Streams come through the native front: it goes last, and answers its own calls meanwhile.
        if grpcio is not None:
            await grpcio.stop(grace_s)
        if native is not None:
            await native.stop(max(0.0, end - loop.time()))
        if socket_dir is not None:
            shutil.rmtree(socket_dir, ignore_errors=True)
        # Both wait for threads, and whoever else uses this loop must not.
        await loop.run_in_executor(None, self._close_metrics)
        await loop.run_in_executor(None, self._close_rooms)

    def _load_content(self) -> ContentEncoder:
        return load_content(self._settings, self.metrics)

    def _is_ready(self) -> bool:
        return self._serving and not self.admission.is_draining

    def _build_rooms(self) -> Rooms:
        content = self._load_content()
        self._closing.append(content)
        rooms = build_rooms(
            self._settings,
            self.store,
            content,
            self.metrics,
            self.admission,
            store_health=self._store_health,
            ready=self._is_ready,
            closing=self._closing,
        )
        self._pipeline = rooms.pipeline
        return rooms

    def _store_health(self, serving: bool) -> None:
        asyncio.run_coroutine_threadsafe(self._tell_health(serving=serving), self._loop)
        if not serving:
            asyncio.run_coroutine_threadsafe(self._reopen_store(), self._loop)

    async def _tell_health(self, *, serving: bool) -> None:
        self._serving = serving
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in self._names:
            await self._health.set(name, status)

    async def _reopen_store(self) -> None:
        """Tries until the store is open: a server that says it is not serving gets no calls that would do it."""
        pause = 0.05
        while not self.admission.is_draining:
            try:
                await asyncio.wrap_future(self._pipeline.run(lambda: None).future)
            except Exception as error:  # the store is not ready yet, or the queue is full of others who try
                logger.warning("the store is not open yet: %s", error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, 5.0)
            else:
                return

    def _bind(self, server: grpc.aio.Server) -> int:
        settings = self._settings
        address = target(settings)
        if settings.tls_cert is None or settings.tls_key is None:  # both, as check_tls knows
            return int(server.add_insecure_port(address))
        pair = (settings.tls_key.read_bytes(), settings.tls_cert.read_bytes())
        return int(server.add_secure_port(address, grpc.ssl_server_credentials([pair])))

    def _serve_metrics(self) -> int:
        host, port = metrics_host(self._settings), self._settings.metrics_port
        try:
            self._metrics_server, _ = start_http_server(port, addr=host, registry=self.metrics.registry)
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror}: {host}:{port} (metrics_port)") from error
        return int(self._metrics_server.server_port)

    def _close_metrics(self) -> None:
        server, self._metrics_server = self._metrics_server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def _close_rooms(self) -> None:
        while self._closing:
            self._closing.pop().close()  # what was made last asks what was made before it


async def serve(settings: Settings, announce: Any = print) -> None:
    """Runs a server until SIGINT or SIGTERM; `announce` gets the one line that says it is serving."""
    app = App(settings)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    addresses = await app.start()
    # What the models and libraries are made of lives as long as the process: no collection need look at it again.
    gc.collect()
    gc.freeze()
    announce(f"nextact SERVING grpc={addresses.grpc} metrics={addresses.metrics}")
    await stopped.wait()
    await app.stop()


__all__ = ["Addresses", "App", "serve"]
