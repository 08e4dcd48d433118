"""Everybody's events, for training elsewhere: a walk through the database, user by user."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from nextact_server.storage.rocks_database import HISTORY, Database
from nextact_server.storage.rocks_keys import KEY_BYTES
from nextact_server.storage.rocks_overlay import Overlay
from nextact_server.storage.rocks_records import NO_RECORDS, Records, count_in, from_many
from nextact_server.storage.seam import HISTORY_SCHEMA, NO_TIME

_TIME = pa.timestamp("us", tz="UTC")
EXPORT_SCHEMA = pa.schema([*HISTORY_SCHEMA, pa.field("event_time", _TIME), pa.field("sent_at", _TIME)])
"""The columns of an Arrow message of the contract, and `properties` as the bytes that came; a message's image is not
kept, only its vector."""


def export(
    database: Database, overlay: Overlay, since_us: int = NO_TIME, events: int = 10_000
) -> Iterator[pa.RecordBatch]:
    """Events received at or after a time, of `EXPORT_SCHEMA`, in batches of about so many.

    Each user's events lie together, oldest first, but for those that were committed after the export began. Only what
    is compacted is found. Who is erased while it runs is left out from then on.
    """
    key = b""
    while True:
        with database.reading():
            records, key = _some(database, overlay, key, since_us, events)
        if len(records):
            yield _batch(records)
        if not key:
            return


def _some(database: Database, overlay: Overlay, start: bytes, since_us: int, events: int) -> tuple[Records, bytes]:
    """Events from a row of the history on, and the row to go on with, empty at the end."""
    erased = overlay.erased
    limit = overlay.oldest
    raws: list[bytes] = []
    found, further = 0, b""
    for key, raw in database.scan(HISTORY, start=start):
        if found >= events:
            further = key
            break
        if key[:KEY_BYTES] not in erased:
            raws.append(raw)
            found += count_in(raw)
    records = from_many(raws) if raws else NO_RECORDS
    rows = records.rows
    wanted = (rows["received_us"] >= since_us) & (rows["number"] < limit)
    return (records if wanted.all() else records.take(np.flatnonzero(wanted))), further


def _batch(records: Records) -> pa.RecordBatch:
    rows = records.rows
    times: list[Any] = [
        pa.array(rows["event_time_us"].copy(), _TIME),
        pa.array(rows["sent_at_us"].copy(), _TIME, mask=rows["sent_at_us"] == NO_TIME),
    ]
    return pa.RecordBatch.from_arrays([*records.columns().columns, *times], schema=EXPORT_SCHEMA)
