"""The composition root: the only place that knows every room, and wires them."""

import asyncio
import gc
import logging
import os
import shutil
import signal
import tempfile
from dataclasses import dataclass
from typing import Any

import grpc
import torch
from grpc_health.v1 import health, health_pb2
from prometheus_client import start_http_server

from nextact_server.catalogue import Catalogue
from nextact_server.configuration import (
    batches,
    call_limits,
    check_tls,
    content_model,
    device_kind,
    event_limits,
    metrics_host,
    target,
)
from nextact_server.events.identity import UserDirectory
from nextact_server.events.status import Status
from nextact_server.features.content import (
    IMAGE_BATCHES,
    TEXT_BATCHES,
    AdmissionLimits,
    ContentEncoder,
    ContentLimits,
    ImageLimits,
    load_content_encoder,
)
from nextact_server.features.time import time_features
from nextact_server.inference.batcher import Batcher
from nextact_server.inference.device import choose_device
from nextact_server.people import People
from nextact_server.pipeline import Pipeline, PipelineLimits
from nextact_server.repository.config import max_queue_delay_s, parameter
from nextact_server.repository.reader import ModelRepository
from nextact_server.rpc.admission import Admission
from nextact_server.rpc.encode import Encoder
from nextact_server.rpc.grpcio_server import make_grpcio_server
from nextact_server.rpc.limits import Limits
from nextact_server.rpc.native_server import NativeServer
from nextact_server.rpc.service import SERVICE, BehaviorService
from nextact_server.rpc.stream import StreamService
from nextact_server.sequence.arena import StateArena
from nextact_server.sequence.checkpoint import load_model
from nextact_server.sequence.engine import SequenceEngine
from nextact_server.sequence.index import ItemIndex
from nextact_server.sequence.journal import Journal
from nextact_server.sequence.model import FIRST_ACTION
from nextact_server.sequence.outputs import Reader, SeenItems
from nextact_server.sequence.residency import Residency
from nextact_server.sequence.stage import SequenceStage, Work, cost_of
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
        service, streams, pipeline, encoder, limits = rooms
        fallback = make_grpcio_server(
            service,
            streams,
            self.admission,
            self._health,
            max_message_bytes=settings.max_message_bytes,
            with_reflection=settings.reflection,
        )
        self._grpcio = fallback
        if settings.grpc_server == "native":
            address = target(settings)
            self._native = NativeServer(address, service, pipeline, encoder, self.admission, limits, self._loop)
            self._socket_dir = tempfile.mkdtemp(prefix="nextact-")
            socket = f"{self._socket_dir}/grpcio.sock"
            fallback.add_insecure_port(f"unix:{socket}")
            await fallback.start()
            self._native.start(socket)
            port = self._native.port
        else:
            port = self._bind(fallback)
            await fallback.start()
        for name in ("", SERVICE):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
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

    def _build_rooms(self) -> tuple[BehaviorService, StreamService, Pipeline, Encoder, Limits]:
        settings = self._settings
        repository = ModelRepository(settings.model_repository)
        entry = repository.get(settings.sequence_model)
        model, card = load_model(entry.version_dir())
        device = torch.device(choose_device(device_kind(entry.config)))
        model.to(device)
        content = self._load_content(repository)
        self._closing.append(content)
        version = (settings.sequence_model, str(entry.latest))
        index = ItemIndex(model, card, settings.index_items)
        engine = SequenceEngine(
            model, index, time_features, settings.allowed_lateness_seconds, settings.apply_late_events
        )
        arena = StateArena(model.state_spec(), settings.resident_users, device)
        residency = Residency(arena, engine, self.store, "/".join(version))
        seen = SeenItems(engine, self.store, max_users=settings.resident_users)
        journal = Journal(self.store, self._store_health)
        directory = UserDirectory()
        stage = SequenceStage(
            engine,
            residency,
            directory,
            journal,
            Reader(engine, seen, card.exclude_seen_default),
            self.metrics,
        )
        batcher: Batcher[Work, Any] = Batcher(
            settings.sequence_model,
            stage.run,
            max_cost=settings.batch_events,
            max_queue_cost=2 * settings.queue_events + settings.max_stream_events,
            max_queue_delay_s=max_queue_delay_s(entry.config),
            cost=cost_of,
            observer=self.metrics,
        )
        self._closing.append(batcher)
        actions = {action: FIRST_ACTION + at for at, action in enumerate(card.actions)}
        limits_of_events = event_limits(settings)
        pipeline = Pipeline(
            batcher,
            content,
            actions,
            version,
            limits_of_events,
            PipelineLimits(
                settings.queue_events, settings.user_queue_events, settings.queue_events + settings.max_stream_events
            ),
            epoch=lambda: journal.epoch,
        )
        self._pipeline = pipeline
        catalogue = Catalogue(pipeline, content, index, self.store, journal, limits_of_events)
        catalogue.load()

        def recover(durable: int) -> None:
            arena.drop_after(durable)
            seen.forget()
            catalogue.load()

        journal.recover = recover
        people = People(pipeline, directory, residency, seen, self.store, journal)
        limits = call_limits(settings)
        encoder = Encoder(version, card.actions, index.ids, self.store.durability, content_model(repository, settings))
        self._watch(arena, directory, index, pipeline)
        service = BehaviorService(pipeline, catalogue, people, content, encoder, limits, limits_of_events)
        streams = StreamService(pipeline, encoder, self.admission, limits)
        return service, streams, pipeline, encoder, limits

    def _load_content(self, repository: ModelRepository) -> ContentEncoder:
        settings = self._settings
        limits = ContentLimits(
            max_text_bytes=settings.max_text_bytes,
            image=ImageLimits(settings.max_image_bytes, settings.max_image_pixels),
            images=AdmissionLimits(settings.encoder_queue, settings.encoder_queue_bytes),
            texts=AdmissionLimits(settings.encoder_queue, settings.encoder_queue_bytes),
            cache_bytes=settings.content_cache_bytes,
        )
        image, text = repository.get(settings.image_model), repository.get(settings.text_model)
        return load_content_encoder(
            image.version_dir(),
            text.version_dir(),
            settings.data_dir / "converted",
            threads=settings.encoder_threads or os.cpu_count() or 1,
            limits=limits,
            image_batches=batches(image, image.config.max_batch_size or IMAGE_BATCHES.max_batch, IMAGE_BATCHES),
            text_batches=batches(text, int(parameter(text.config, "max_batch_tokens", "1024")), TEXT_BATCHES),
            batch_observer=self.metrics,
            cache_observer=self.metrics,
        )

    def _watch(self, arena: StateArena, directory: UserDirectory, index: ItemIndex, pipeline: Pipeline) -> None:
        self.metrics.resident_users.set_function(lambda: len(arena))
        self.metrics.known_users.set_function(lambda: len(directory))
        self.metrics.items.set_function(lambda: len(index))
        self.metrics.waiting_events.set_function(lambda: pipeline.waiting_events)

    def _store_health(self, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING

        async def tell() -> None:
            for name in ("", SERVICE):
                await self._health.set(name, status)

        asyncio.run_coroutine_threadsafe(tell(), self._loop)
        if not serving:
            asyncio.run_coroutine_threadsafe(self._reopen_store(), self._loop)

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
