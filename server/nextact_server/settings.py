"""Every setting of the server in one typed tree; each has a flag and an environment variable (`NEXTACT_...`)."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

MIB = 1024 * 1024


class Settings(BaseSettings):
    """What `nextact-server serve` can be told. `--grpc-port 0` and `NEXTACT_GRPC_PORT=0` say the same."""

    model_config = SettingsConfigDict(
        env_prefix="NEXTACT_",
        frozen=True,
        extra="forbid",
        cli_prog_name="nextact-server serve",
        cli_kebab_case=True,
        cli_implicit_flags=True,
    )

    host: str = Field("127.0.0.1", description="Address to listen on; unix:PATH for a socket (gRPC only).")
    grpc_port: int = Field(8001, ge=0, le=65535, description="Port of all gRPC services. 0: a free one, printed.")
    metrics_port: int = Field(8002, ge=0, le=65535, description="Port of Prometheus metrics. 0: a free one, printed.")
    grpc_server: Literal["native", "grpcio"] = Field(
        "native", description="Who speaks HTTP/2: pygrpc-native (Rust, plaintext) or grpcio (also TLS)."
    )
    tls_cert: Path | None = Field(None, description="PEM certificate chain; needs grpc_server=grpcio.")
    tls_key: Path | None = Field(None, description="PEM private key; needs grpc_server=grpcio.")
    model_repository: Path = Field(Path("model_repository"), description="Triton-shaped repository of models.")
    tensor_repository: Path | None = Field(
        None, description="Another one, of models that know no users; beside model_repository."
    )
    model_control_mode: Literal["none", "poll", "explicit"] = Field(
        "none", description="Whether models are loaded at the start only, reloaded when files change, or on request."
    )
    repository_poll_seconds: float = Field(15.0, gt=0, description="Between two looks at the files, in mode poll.")
    load_model: tuple[str, ...] = Field(
        (), description="Models that mode explicit loads at the start, repeatable; * alone is all."
    )
    exit_on_error: bool = Field(True, description="Whether a model that cannot be loaded ends the start.")
    model_load_threads: int = Field(4, ge=1, description="How many models are loaded side by side.")
    response_cache_bytes: int = Field(
        64 * MIB, ge=0, description="Memory for responses of models that set response_cache. 0: none is kept."
    )
    rate_limit: Literal["off", "execution_count"] = Field(
        "off", description="Whether instances wait for the rate_limiter resources of their config.pbtxt."
    )
    rate_limit_resources: tuple[str, ...] = Field(
        (), description="Resources there are, as name:count or name:count:device, repeatable. None: as much as asked."
    )
    trace_dir: Path | None = Field(None, description="Where traces may be written. None: tracing cannot be turned on.")
    data_dir: Path = Field(Path("data"), description="Where the server keeps what it makes (converted models).")
    drain_seconds: float = Field(10.0, ge=0, description="How long a stopping server lets calls in flight finish.")
    reflection: bool = Field(True, description="Offer gRPC server reflection.")

    torch_threads: int = Field(1, ge=1, description="Threads of the sequence model.")
    encoder_threads: int = Field(0, ge=0, description="Threads of the encoders and of decoding together. 0: all cores.")
    image_model: str = Field("image_encoder", description="Repository name of the image encoder.")
    text_model: str = Field("text_encoder", description="Repository name of the text encoder.")
    sequence_model: str = Field("next_action", description="Repository name of the next-action model.")
    content_cache_bytes: int = Field(256 * MIB, ge=0, description="Memory for vectors of texts and images.")

    resident_users: int = Field(100_000, ge=1, description="Users whose state is held in the arena.")
    batch_events: int = Field(4096, ge=1, description="Most events in one step of the sequence model.")
    queue_events: int = Field(65_536, ge=1, description="Most events waiting for the sequence model.")
    user_queue_events: int = Field(10_000, ge=1, description="Most events of one user waiting; more are OVERLOADED.")
    encoder_queue: int = Field(40_000, ge=1, description="Most texts, and most images, waiting to be encoded.")
    encoder_queue_bytes: int = Field(
        256 * MIB, ge=1, description="Most bytes of texts, and of images, waiting to be encoded."
    )
    index_items: int = Field(2_000_000, ge=1, description="Most items that can be ranked.")

    max_predict_events: int = Field(1000, ge=1, description="Most events in one Predict, history counted apart.")
    max_stream_events: int = Field(10_000, ge=1, description="Most events in one stream message.")
    max_embed_contents: int = Field(256, ge=1, description="Most contents in one Embed.")
    max_upsert_items: int = Field(1000, ge=1, description="Most items in one UpsertItems.")
    max_candidates: int = Field(20_000, ge=1, description="Most candidates in one Rank.")
    max_top_k: int = Field(1000, ge=1, description="Largest top_k.")
    max_page_size: int = Field(1000, ge=1, description="Largest page_size.")
    max_ranked_items: int = Field(
        1_000_000, ge=1, description="Most items ranked in one answer: top_k times the events of the call or message."
    )
    default_top_k: int = Field(10, ge=1, description="top_k where a call names none.")
    max_message_bytes: int = Field(32 * MIB, ge=1024, description="Largest gRPC message, either way.")
    max_id_bytes: int = Field(256, ge=1, description="Longest user, item, message or session id.")
    max_action_bytes: int = Field(128, ge=1, description="Longest action.")
    max_text_bytes: int = Field(64 * 1024, ge=1, description="Longest text.")
    max_image_bytes: int = Field(8 * MIB, ge=1, description="Largest encoded image.")
    max_image_pixels: int = Field(25_000_000, ge=1, description="Most pixels of an image.")
    max_properties_bytes: int = Field(16 * 1024, ge=1, description="Largest properties or attributes, serialized.")
    max_future_seconds: float = Field(300.0, ge=0, description="How far event_time may be ahead of the server.")
    allowed_lateness_seconds: float = Field(
        60.0, ge=0, description="How much older than the user's newest event one may be before it is LATE."
    )
    apply_late_events: bool = Field(True, description="Whether a LATE event advances the user's state, with gap 0.")
    dedup_days: float = Field(7.0, ge=0, description="How long message ids are remembered, at least.")
    dedup_ids_per_user: int = Field(10_000, ge=0, description="How many ids per user are remembered, at least.")
    stream_window_messages: int = Field(16, ge=1, description="Unacknowledged messages a stream may have.")
    stream_window_bytes: int = Field(64 * MIB, ge=1, description="Unacknowledged bytes a stream may have.")

    @property
    def converted_dir(self) -> Path:
        """Where encoders are kept as their runtime wants them: made from the repository, and safe to delete."""
        return self.data_dir / "converted"

    @model_validator(mode="after")
    def _fit_together(self) -> "Settings":
        most = max(self.max_stream_events, self.max_predict_events)
        if self.resident_users < most:
            raise ValueError(
                f"resident_users is {self.resident_users}; one message may name {most} users (max_stream_events, "
                "max_predict_events), and all of them must be resident at once"
            )
        if self.load_model and self.model_control_mode != "explicit":
            raise ValueError("Use of '--load-model' requires setting '--model-control-mode=explicit' as well.")
        if "*" in self.load_model and len(self.load_model) > 1:
            raise ValueError("Wildcard model name '*' must be the ONLY startup model if specified at all.")
        return self
