"""What a group must hold before anything of it is applied."""

import numpy as np
from numpy.typing import NDArray

from nextact_server.storage.seam import (
    ACCEPTED,
    HASH_BYTES,
    HISTORY_SCHEMA,
    LATE,
    CommitGroup,
    EventRows,
    InvalidGroupError,
)

_SHAPES: dict[str, tuple[int, ...]] = {
    "user_key": (2,), "message_key": (2,), "status": (), "applied": (), "event_time_us": (), "effective_time_us": (),
    "gap_us": (), "sent_at_us": (), "received_us": (), "item_key": (2,), "has_item": (), "action_code": (),
    "content_hash": (HASH_BYTES,),
}  # fmt: skip


def check_group(group: CommitGroup, last_sequence: int, content_dimension: int) -> None:
    """Holds a group against itself and the sequence number before.

    Args:
        group: what is to be committed.
        last_sequence: number of the last group committed.
        content_dimension: length of the content vectors kept so far, 0 for none.

    Raises:
        InvalidGroupError: names what does not fit.
    """
    if group.sequence <= last_sequence:
        raise InvalidGroupError(f"sequence {group.sequence} is not above {last_sequence}, that of the group before")
    if group.events is not None:
        _check_events(group.events)
        for erasure in group.erased:
            if (group.events.user == erasure.user).any():
                raise InvalidGroupError(f"user {erasure.user} is both erased and recorded; their order cannot be told")
    twice = {item.item_id for item in group.items} & set(group.deleted_items)
    if twice:
        raise InvalidGroupError(f"item {min(twice)!r} is both upserted and deleted; their order cannot be told")
    _check_content(group, content_dimension)


def _check_events(rows: EventRows) -> None:
    n = len(rows)
    for name, tail in _SHAPES.items():
        shape = getattr(rows, name).shape
        if shape != (n, *tail):
            raise InvalidGroupError(f"events.{name} has shape {shape} where {(n, *tail)} is wanted")
    if rows.columns.num_rows != n or not rows.columns.schema.equals(HISTORY_SCHEMA):
        raise InvalidGroupError(
            f"events.columns has {rows.columns.num_rows} rows and the columns {rows.columns.schema.names}; "
            f"{n} rows of HISTORY_SCHEMA are wanted"
        )
    if not n:
        return
    if int(rows.user.min()) < 0:
        raise InvalidGroupError(f"events.user holds {int(rows.user.min())}; ordinals are 0 or above")
    if not ((rows.status == ACCEPTED) | (rows.status == LATE)).all():
        raise InvalidGroupError("events.status holds others than ACCEPTED and LATE; only these are recorded")
    lane = np.sort(rows.message_key[:, 0])
    if (lane[1:] == lane[:-1]).any() and len(np.unique(rows.message_key, axis=0)) < n:
        raise InvalidGroupError("events.message_key holds a message twice; the second is a duplicate")


def _check_content(group: CommitGroup, dimension: int) -> None:
    vectors: list[tuple[bytes | None, NDArray[np.float32]]] = list(group.content.items())
    for item in group.items:
        if item.vector is not None:
            vectors.append((item.content_hash, item.vector))
        elif item.content_hash is not None and len(item.content_hash) != HASH_BYTES:
            raise InvalidGroupError(f"content hash of item {item.item_id!r} is not of {HASH_BYTES} bytes")
    for content_hash, vector in vectors:
        dimension = dimension or len(vector)
        if content_hash is None or len(content_hash) != HASH_BYTES:
            raise InvalidGroupError(f"a content vector comes with the hash {content_hash!r}, not of {HASH_BYTES} bytes")
        if vector.shape != (dimension,) or vector.dtype != np.float32:
            raise InvalidGroupError(
                f"a content vector is {vector.dtype} of shape {vector.shape}; float32 of shape {(dimension,)} is wanted"
            )
