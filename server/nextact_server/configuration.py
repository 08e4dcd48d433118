"""What the rooms are told of the settings and of the repository: values in, values out."""

from typing import Any, get_args

from nextact_server.events.validation import EventLimits
from nextact_server.features.content import BatchOptions
from nextact_server.inference.device import InstanceKind
from nextact_server.inference.rate_limiter import RateLimiter, RateLimitMode
from nextact_server.repository.config import instance_kind, max_queue_delay_s, parameter
from nextact_server.repository.options import ControlMode, RegistryOptions, resource_limits
from nextact_server.repository.reader import ModelEntry, ModelRepository
from nextact_server.rpc.limits import Limits
from nextact_server.settings import Settings


def device_kind(config: Any) -> InstanceKind:
    """The kind of a model's instance group. Raises ValueError for one that is not offered."""
    kind = instance_kind(config)
    offered: tuple[InstanceKind, ...] = get_args(InstanceKind)
    for each in offered:
        if kind == each:
            return each
    raise ValueError(f"{config.name}: instance_group.kind is {kind}; {', '.join(offered)} are offered")


def batches(entry: ModelEntry, max_batch: int, defaults: BatchOptions) -> BatchOptions:
    """How an encoder is batched and where it runs: what its config.pbtxt says, and the defaults."""
    return BatchOptions(
        entry.name,
        max_batch=max_batch,
        max_queue=max(defaults.max_queue, max_batch),
        max_queue_delay_s=max_queue_delay_s(entry.config),
        kind=device_kind(entry.config),
        half=parameter(entry.config, "half_precision", "false") == "true",
    )


def target(settings: Settings) -> str:
    """Where gRPC listens."""
    return settings.host if settings.host.startswith("unix:") else f"{settings.host}:{settings.grpc_port}"


def check_tls(settings: Settings) -> None:
    """Refuses settings that ask for TLS and would not get it: plaintext must never come as a surprise."""
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise ValueError("tls_cert and tls_key are needed both, and only one is set")
    if settings.tls_cert is not None and settings.grpc_server != "grpcio":
        raise ValueError(f"tls_cert needs grpc_server=grpcio; it is {settings.grpc_server!r}, which has no TLS")


def metrics_host(settings: Settings) -> str:
    """Where the metrics listen: beside a Unix socket, on loopback."""
    return "127.0.0.1" if settings.host.startswith("unix:") else settings.host


def content_model(repository: ModelRepository, settings: Settings) -> str:
    """The encoders that make the content space, as name/version."""
    names = (settings.text_model, settings.image_model)
    return "+".join(f"{name}/{repository.get(name).latest}" for name in names)


def registry_options(settings: Settings) -> RegistryOptions:
    """How the repository is gone about: the models that hold users are there for good."""
    return RegistryOptions(
        control_mode=ControlMode(settings.model_control_mode),
        poll_seconds=settings.repository_poll_seconds,
        startup_models=settings.load_model,
        pinned=frozenset((settings.sequence_model, settings.image_model, settings.text_model)),
        exit_on_error=settings.exit_on_error,
        load_threads=settings.model_load_threads,
    )


def resource_limiter(settings: Settings) -> RateLimiter:
    """Who lends the instances their resources. Raises InferError for a setting of another form."""
    return RateLimiter(resource_limits(settings.rate_limit_resources), mode=RateLimitMode(settings.rate_limit))


def event_limits(settings: Settings) -> EventLimits:
    """What one event may carry."""
    return EventLimits(
        id_bytes=settings.max_id_bytes,
        action_bytes=settings.max_action_bytes,
        text_bytes=settings.max_text_bytes,
        image_bytes=settings.max_image_bytes,
        properties_bytes=settings.max_properties_bytes,
        future_seconds=settings.max_future_seconds,
    )


def call_limits(settings: Settings) -> Limits:
    """What one call may carry."""
    return Limits(
        predict_events=settings.max_predict_events,
        stream_events=settings.max_stream_events,
        embed_contents=settings.max_embed_contents,
        upsert_items=settings.max_upsert_items,
        candidates=settings.max_candidates,
        top_k=settings.max_top_k,
        default_top_k=settings.default_top_k,
        ranked_items=settings.max_ranked_items,
        page_size=settings.max_page_size,
        id_bytes=settings.max_id_bytes,
        message_bytes=settings.max_message_bytes,
        window_messages=settings.stream_window_messages,
        window_bytes=settings.stream_window_bytes,
    )
