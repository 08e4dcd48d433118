"""What one call may carry."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of single calls; those of single events are EventLimits."""

    predict_events: int = 1000
    stream_events: int = 10_000
    embed_contents: int = 256
    upsert_items: int = 1000
    candidates: int = 20_000
    top_k: int = 1000
    default_top_k: int = 10
    ranked_items: int = 1_000_000
    page_size: int = 1000
    id_bytes: int = 256
    message_bytes: int = 32 * 1024 * 1024
    window_messages: int = 16
    window_bytes: int = 64 * 1024 * 1024
