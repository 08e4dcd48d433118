"""The composition root: builds every room from the settings, and connects them. Nothing else knows them all."""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from prometheus_client import CollectorRegistry

from nextact_server.catalogue import Catalogue
from nextact_server.configuration import (
    batches,
    call_limits,
    content_model,
    device_kind,
    event_limits,
    registry_options,
    resource_limiter,
)
from nextact_server.events.identity import UserDirectory
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
from nextact_server.inference.device import choose_device, cuda_possible
from nextact_server.inference.response_cache import ResponseCache
from nextact_server.own_models.encoder_backends import image_encoder_backend, text_encoder_backend
from nextact_server.own_models.next_action_backend import NextActionBackend, ServedNextAction
from nextact_server.own_models.next_action_outputs import NextActionOutputs
from nextact_server.people import People
from nextact_server.pipeline import Pipeline, PipelineLimits
from nextact_server.repository.backend import Backend
from nextact_server.repository.backends.onnxruntime import OnnxRuntimeBackend
from nextact_server.repository.backends.python.backend import PythonBackend
from nextact_server.repository.backends.pytorch import PytorchBackend
from nextact_server.repository.config import max_queue_delay_s, parameter
from nextact_server.repository.reader import ModelRepository
from nextact_server.repository.registry import ModelRegistry
from nextact_server.rpc.admission import Admission
from nextact_server.rpc.burst import MakeBurst
from nextact_server.rpc.encode import Encoder
from nextact_server.rpc.kserve.control import ControlService
from nextact_server.rpc.kserve.infer import MODEL_INFER, InferService
from nextact_server.rpc.kserve.infer import SERVICE as KSERVE
from nextact_server.rpc.kserve.infer_burst import InferBurst
from nextact_server.rpc.kserve.log_settings import LogSettings
from nextact_server.rpc.kserve.shared_memory import SharedMemory
from nextact_server.rpc.kserve.shared_memory_control import SharedMemoryControl
from nextact_server.rpc.kserve.statistics import version_counts
from nextact_server.rpc.kserve.trace import Tracer
from nextact_server.rpc.limits import Limits
from nextact_server.rpc.predict_burst import PredictBurst
from nextact_server.rpc.service import SERVICE, BehaviorService, UnaryMethod
from nextact_server.rpc.stream import METHOD as STREAM_METHOD
from nextact_server.rpc.stream import StreamService
from nextact_server.sequence.arena import StateArena
from nextact_server.sequence.card import ModelCard
from nextact_server.sequence.checkpoint import load_model
from nextact_server.sequence.config import FIRST_ACTION
from nextact_server.sequence.engine import SequenceEngine
from nextact_server.sequence.index import ItemIndex
from nextact_server.sequence.journal import Journal
from nextact_server.sequence.outputs import Reader, SeenItems
from nextact_server.sequence.residency import Residency
from nextact_server.sequence.stage import SequenceStage, Work, cost_of
from nextact_server.settings import Settings
from nextact_server.storage.seam import Store
from nextact_server.telemetry.metrics import Metrics
from nextact_server.telemetry.triton_metrics import TritonMetrics

__all__ = ["Doors", "Rooms", "build_rooms", "load_content"]

Streams = Mapping[str, Callable[[Any], Any]]


@dataclass(frozen=True, slots=True)
class Doors:
    """What the transports serve: unary methods and streams by service, and who takes calls in bursts, by full path."""

    services: Mapping[str, Mapping[str, UnaryMethod]]
    streams: Mapping[str, Streams]
    bursts: Mapping[str, MakeBurst]


@dataclass(frozen=True, slots=True)
class Rooms:
    """The rooms that a running server is asked for by name."""

    pipeline: Pipeline
    registry: ModelRegistry
    doors: Doors


@dataclass(frozen=True, slots=True)
class _Users:
    """The rooms that know users."""

    pipeline: Pipeline
    catalogue: Catalogue
    people: People
    card: ModelCard
    index: ItemIndex
    embedding_dim: int
    version: tuple[str, str]


class _Scraped:
    """Metrics that are part of a registry as long as their rooms are open."""

    def __init__(self, registry: CollectorRegistry, metrics: CollectorRegistry) -> None:
        self._registry = registry
        self._metrics = metrics
        registry.register(metrics)

    def close(self) -> None:
        """Take them out."""
        self._registry.unregister(self._metrics)


def build_rooms(
    settings: Settings,
    store: Store,
    content: ContentEncoder,
    metrics: Metrics,
    admission: Admission,
    *,
    store_health: Callable[[bool], None],
    ready: Callable[[], bool],
    closing: list[Any],
) -> Rooms:
    """Build everything but the transports. Models of tensors are not loaded yet: `registry.start` does that.

    `store_health` is told when the store fails and when it is back; `ready` tells whether the server takes requests.
    What is made is put into `closing` as it is made, so that a start that fails half way can be undone.
    """
    repository = ModelRepository(settings.model_repository)
    users = _build_users(settings, repository, store, content, metrics, store_health, closing)
    limits = call_limits(settings)
    names = content_model(repository, settings)
    encoder = Encoder(users.version, users.card.actions, users.index.ids, store.durability, names)
    behavior = BehaviorService(
        users.pipeline, users.catalogue, users.people, content, encoder, limits, event_limits(settings)
    )
    streams = StreamService(users.pipeline, encoder, admission, limits)
    tracer = Tracer(settings.trace_dir)
    closing.append(tracer)
    of_models = CollectorRegistry()
    closing.append(_Scraped(metrics.registry, of_models))
    registry = _build_registry(settings, users, content, limits, tracer, metrics, of_models)
    closing.append(registry)
    of_models.register(TritonMetrics(lambda: version_counts(registry)))
    memory = SharedMemory()
    log = LogSettings(logging.getLogger("nextact_server"), lambda: logging.getLogger().handlers)
    closing.append(log)
    control = ControlService(
        registry,
        SharedMemoryControl(memory),
        tracer,
        log,
        ready=ready,
        version=version("nextact-server"),
        cuda=cuda_possible(),
    )
    closing.append(control)
    infer = InferService(registry, memory, admission, tracer)
    doors = Doors(
        services={SERVICE: behavior.methods, KSERVE: {**control.methods, **infer.methods}},
        streams={SERVICE: {STREAM_METHOD: streams.serve}, KSERVE: infer.streams},
        bursts={
            f"/{SERVICE}/Predict": partial(PredictBurst, users.pipeline, encoder, limits),
            f"/{KSERVE}/{MODEL_INFER}": partial(InferBurst, infer),
        },
    )
    return Rooms(users.pipeline, registry, doors)


def load_content(settings: Settings, metrics: Metrics) -> ContentEncoder:
    """Load the encoders. Raises what a broken one raises."""
    repository = ModelRepository(settings.model_repository)
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
        settings.converted_dir,
        threads=settings.encoder_threads or os.cpu_count() or 1,
        limits=limits,
        image_batches=batches(image, image.config.max_batch_size or IMAGE_BATCHES.max_batch, IMAGE_BATCHES),
        text_batches=batches(text, int(parameter(text.config, "max_batch_tokens", "1024")), TEXT_BATCHES),
        batch_observer=metrics,
        cache_observer=metrics,
    )


def _build_users(
    settings: Settings,
    repository: ModelRepository,
    store: Store,
    content: ContentEncoder,
    metrics: Metrics,
    store_health: Callable[[bool], None],
    closing: list[Any],
) -> _Users:
    entry = repository.get(settings.sequence_model)
    model, card = load_model(entry.version_dir())
    device = torch.device(choose_device(device_kind(entry.config)))
    model.to(device)
    version = (settings.sequence_model, str(entry.latest))
    index = ItemIndex(model, card, settings.index_items)
    engine = SequenceEngine(model, index, time_features, settings.allowed_lateness_seconds, settings.apply_late_events)
    arena = StateArena(model.state_spec(), settings.resident_users, device)
    residency = Residency(arena, engine, store, "/".join(version))
    seen = SeenItems(engine, store, max_users=settings.resident_users)
    journal = Journal(store, store_health)
    directory = UserDirectory()
    stage = SequenceStage(
        engine, residency, directory, journal, Reader(engine, seen, card.exclude_seen_default), metrics
    )
    batcher: Batcher[Work, Any] = Batcher(
        settings.sequence_model,
        stage.run,
        max_cost=settings.batch_events,
        max_queue_cost=2 * settings.queue_events + settings.max_stream_events,
        max_queue_delay_s=max_queue_delay_s(entry.config),
        cost=cost_of,
        observer=metrics,
    )
    closing.append(batcher)
    spare = settings.queue_events + settings.max_stream_events
    pipeline = Pipeline(
        batcher,
        content,
        {action: FIRST_ACTION + at for at, action in enumerate(card.actions)},
        version,
        event_limits(settings),
        PipelineLimits(settings.queue_events, settings.user_queue_events, spare),
        epoch=lambda: journal.epoch,
    )
    catalogue = Catalogue(pipeline, content, index, store, journal, event_limits(settings))
    catalogue.load()

    def recover(durable: int) -> None:
        arena.drop_after(durable)
        seen.forget()
        catalogue.load()

    journal.recover = recover
    people = People(pipeline, directory, residency, seen, store, journal)
    metrics.resident_users.set_function(lambda: len(arena))
    metrics.known_users.set_function(lambda: len(directory))
    metrics.items.set_function(lambda: len(index))
    metrics.waiting_events.set_function(lambda: pipeline.waiting_events)
    return _Users(pipeline, catalogue, people, card, index, model.config.item_dim, version)


def _build_registry(
    settings: Settings,
    users: _Users,
    content: ContentEncoder,
    limits: Limits,
    tracer: Tracer,
    metrics: Metrics,
    of_models: CollectorRegistry,
) -> ModelRegistry:
    outputs = NextActionOutputs(
        users.index.ids,
        embedding_dim=users.embedding_dim,
        actions=len(users.card.actions),
        foretells_next=users.card.config.horizon_s is not None,
        default_top_k=limits.default_top_k,
        max_top_k=limits.top_k,
    )
    next_action = ServedNextAction(
        *users.version, tuple(users.card.actions), users.embedding_dim, users.card.config.horizon_s
    )
    backends: dict[str, Backend] = {
        "python": PythonBackend(of_models),
        "pytorch": PytorchBackend(),
        "onnxruntime": OnnxRuntimeBackend(threads=settings.torch_threads),
        "nextact": NextActionBackend(next_action, users.pipeline, outputs, max_rows=limits.predict_events),
        "nextact_image": image_encoder_backend(content, settings.image_model, settings.max_image_bytes),
        "nextact_text": text_encoder_backend(content, settings.text_model),
    }
    roots = [root for root in (settings.model_repository, settings.tensor_repository) if root is not None]
    return ModelRegistry(
        roots,
        backends,
        registry_options(settings),
        listener=tracer,
        limiter=resource_limiter(settings),
        cache=ResponseCache(settings.response_cache_bytes) if settings.response_cache_bytes else None,
        observer=metrics,
    )
