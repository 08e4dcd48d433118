"""What the durable store can be told."""

from dataclasses import dataclass
from typing import Literal

MIB = 1 << 20
Durability = Literal["sync", "interval", "off"]


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Settings of a `RocksStore`."""

    durability: Durability = "sync"
    """When a commit is acknowledged: 'sync', once it is on disk; 'interval', once it is written, and the disk follows
    within `sync_interval_s`; 'off', once it is written, and the system brings it to disk when it likes. Written groups
    survive the end of the process in every mode; only the end of the machine tells them apart."""
    sync_interval_s: float = 0.1
    message_id_window_s: float = 7 * 86_400.0
    message_ids_per_user: int = 10_000
    """Ids are remembered for the larger of a time and a number per user."""
    compact_events: int = 32_768
    """Events that gather before they are moved to the rows of their users."""
    compact_bytes: int = 32 * MIB
    """Bytes in memory at which they are moved, however few they are."""
    compact_after_s: float = 30.0
    """Age at which they are moved, however few they are."""
    most_uncompacted_events: int = 262_144
    """Beyond these commits wait for the compaction; up to half of them, the compaction waits while commits come."""
    purge_within_s: float = 3600.0
    """Within this time an erased user's bytes are gone from all files; the rewriting begins at half of it."""
    compress: bool = True
    """Whether what is worth it is compressed on disk."""
    cache_bytes: int = 256 * MIB
    """Memory for blocks of table files, their indexes and filters included."""
    write_buffer_bytes: int = 128 * MIB
    """Memory for rows that are not in table files yet."""
