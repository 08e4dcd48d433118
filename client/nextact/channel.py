"""How a connection behaves: deadlines, retries, sizes of messages."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

MAX_MESSAGE_BYTES = 32 * 1024 * 1024
"""The server's default limit of one message, in both directions."""

ChannelOptions = Sequence[tuple[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """Seconds that each call may take in all, retries included; `math.inf` is no deadline.

    The fields are the unary methods of the service.
    """

    predict: float = 1.0
    embed: float = 10.0
    rank: float = 2.0
    upsert_items: float = 60.0
    get_item: float = 5.0
    delete_item: float = 5.0
    list_items: float = 10.0
    get_user: float = 5.0
    delete_user: float = 30.0

    def seconds(self, method: str, override: float | None) -> float | None:
        """Returns the time that gRPC is given for one call of `method`; None is no deadline."""
        value: float = getattr(self, method) if override is None else override
        return None if math.isinf(value) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRetry:
    """How a stream connects again after UNAVAILABLE.

    The pause before attempt n since the last acknowledgement is `initial_s * multiplier ** (n - 1)`, at most `max_s`,
    of which a random half is taken off, so that the clients of one server do not all return at once. After `attempts`
    of them without an acknowledgement the stream fails. The defaults outlast a restart of half a minute.
    """

    initial_s: float = 0.1
    multiplier: float = 2.0
    max_s: float = 5.0
    attempts: int = 12

    def pause(self, attempt: int, jitter: float) -> float:
        """Returns the seconds to wait before `attempt` (from 1), for a `jitter` in [0, 1)."""
        # A large power overflows a float; the largest pause is reached long before.
        steps = min(attempt - 1, 64)
        return min(self.initial_s * self.multiplier**steps, self.max_s) * (1 - jitter / 2)


def rpc_name(method: str) -> str:
    """Returns the RPC behind a method of the client: `upsert_items` -> `UpsertItems`."""
    return method.title().replace("_", "")


def service_config() -> str:
    """Returns the gRPC service config: every unary method is tried up to 4 times, on UNAVAILABLE only.

    All of them may be repeated: an event carries its message_id, and the others write the same thing twice.
    StreamEvents is not among them, since a stream re-sends what was not acknowledged.
    See https://github.com/grpc/proposal/blob/master/A6-client-retries.md.
    """
    names = [{"service": "nextact.v1.BehaviorService", "method": rpc_name(f.name)} for f in fields(Deadlines)]
    policy = {
        "maxAttempts": 4,
        "initialBackoff": "0.05s",
        "maxBackoff": "1s",
        "backoffMultiplier": 3,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    return json.dumps({"methodConfig": [{"name": names, "retryPolicy": policy}]})


def channel_options(extra: ChannelOptions = ()) -> list[tuple[str, Any]]:
    """Returns the channel arguments of both clients; `extra` comes last and wins."""
    return [
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.service_config", service_config()),
        # gRPC gives up retrying a call that is larger than this, 256 KiB by default: one photo.
        ("grpc.per_rpc_retry_buffer_size", MAX_MESSAGE_BYTES),
        # A server is restarted within seconds; gRPC's own pause between connections grows to two minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2000),
        *extra,
    ]
