"""Segments: what one or more commit groups are on disk until they are compacted. One row of the database each."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nextact_server.storage.rocks_items import item_from_bytes, item_to_bytes
from nextact_server.storage.rocks_keys import KEY_BYTES, StoreKeys, sliced
from nextact_server.storage.rocks_records import NO_RECORDS, Records, encode, from_bytes
from nextact_server.storage.seam import HASH_BYTES, CommitGroup, EventRows, ItemRecord, StoreError

_PLAIN, _LZ4 = 0, 1
_COMPRESSED_FROM = 1024
_HEAD = struct.Struct("<BI")
_SIZE = struct.Struct("<I")
_NUMBER = struct.Struct(">Q")


@dataclass(frozen=True, slots=True)
class Forgotten:
    """A user who was erased, by key on disk."""

    user: bytes
    suppress: bool


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """The changes of one or more groups, translated to the keys on disk.

    It takes up at least one number, so that the first number is the segment's key and an erasure has a place among the
    events: it concerns the events below `first`.
    """

    first: int
    records: Records = NO_RECORDS
    content: Mapping[bytes, NDArray[np.float32]] = field(default_factory=dict)
    items: tuple[ItemRecord, ...] = ()
    deleted_items: tuple[str, ...] = ()
    forgotten: tuple[Forgotten, ...] = ()
    messages: list[bytes] = field(init=False)
    """Keys on disk of the events' messages."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "messages", sliced(self.records.rows["message"]))

    @property
    def stop(self) -> int:
        """First number of the segment behind."""
        return self.first + max(1, len(self.records))


def is_mergeable(group: CommitGroup) -> bool:
    """Whether a group only records events, so that it can share a segment with others of its kind."""
    return not (group.items or group.deleted_items or group.erased)


def segment_of(groups: Sequence[CommitGroup], first: int, keys: StoreKeys) -> Segment:
    """One segment of groups of which all are mergeable, or of a single group."""
    parts = [group.events for group in groups if group.events is not None and len(group.events)]
    content = {}
    for group in groups:
        content.update({content_hash: vector.copy() for content_hash, vector in group.content.items()})
    erased = [one for group in groups for one in group.erased]
    users = np.array([one.user_key for one in erased], np.uint64).reshape(-1, 2)
    return Segment(
        first=first,
        records=_records(parts, first, keys) if parts else NO_RECORDS,
        content=content,
        items=tuple(item for group in groups for item in group.items),
        deleted_items=tuple(item_id for group in groups for item_id in group.deleted_items),
        forgotten=tuple(
            Forgotten(user, one.suppress) for user, one in zip(sliced(keys.of_users(users)), erased, strict=True)
        ),
    )


def _records(parts: list[EventRows], first: int, keys: StoreKeys) -> Records:
    users = [keys.of_users(part.user_key) for part in parts]
    messages = np.concatenate([part.message_key for part in parts]) if len(parts) > 1 else parts[0].message_key
    return encode(parts, users, keys.of_hashes(messages), first)


def segment_key(number: int) -> bytes:
    """The key of the segment that begins with a number; keys sort like numbers."""
    return _NUMBER.pack(number)


def segment_to_bytes(segment: Segment, *, compress: bool = True) -> bytes:
    """As `segment_from_bytes` reads it."""
    hashes = list(segment.content)
    vectors = [vector.tobytes() for vector in segment.content.values()]
    sections = [
        segment.records.to_bytes() if len(segment.records) else b"",
        b"".join(hashes),
        b"".join(vectors),
        _packed([item_to_bytes(item) for item in segment.items]),
        _packed([item_id.encode() for item_id in segment.deleted_items]),
        b"".join(one.user + bytes([one.suppress]) for one in segment.forgotten),
    ]
    raw = _packed(sections)
    if len(raw) < _COMPRESSED_FROM or not compress:
        return _HEAD.pack(_PLAIN, len(raw)) + raw
    compressed: bytes = pa.Codec("lz4").compress(raw, asbytes=True)
    return _HEAD.pack(_LZ4, len(raw)) + compressed


def segment_from_bytes(key: bytes, raw: bytes) -> Segment:
    """Reads a segment back. Raises StoreError if it is of a kind that this version does not know."""
    kind, size = _HEAD.unpack_from(raw)
    if kind == _LZ4:
        body: bytes = pa.Codec("lz4").decompress(memoryview(raw)[_HEAD.size :], size, asbytes=True)
    elif kind == _PLAIN:
        body = raw[_HEAD.size :]
    else:
        raise StoreError(f"a segment of kind {kind} was found; this version reads {_PLAIN} and {_LZ4}")
    records, hashes, vectors, items, deleted, forgotten = _unpacked(body)
    count = len(hashes) // HASH_BYTES
    matrix = np.frombuffer(vectors, np.float32).reshape(count, -1) if count else np.zeros((0, 0), np.float32)
    return Segment(
        first=_NUMBER.unpack(key)[0],
        records=from_bytes(records) if records else NO_RECORDS,
        content={hashes[at * HASH_BYTES : (at + 1) * HASH_BYTES]: matrix[at] for at in range(count)},
        items=tuple(item_from_bytes(item) for item in _unpacked(items)),
        deleted_items=tuple(item_id.decode() for item_id in _unpacked(deleted)),
        forgotten=tuple(
            Forgotten(forgotten[at : at + KEY_BYTES], bool(forgotten[at + KEY_BYTES]))
            for at in range(0, len(forgotten), KEY_BYTES + 1)
        ),
    )


def _packed(parts: Sequence[bytes]) -> bytes:
    return b"".join(part for one in parts for part in (_SIZE.pack(len(one)), one))


def _unpacked(raw: bytes) -> list[bytes]:
    parts = []
    at = 0
    while at < len(raw):
        (size,) = _SIZE.unpack_from(raw, at)
        at += _SIZE.size
        parts.append(raw[at : at + size])
        at += size
    return parts
