"""The catalogue, read from the generations and the database as one."""

from collections.abc import Iterator
from heapq import merge
from itertools import islice

from nextact_server.storage.rocks_database import ITEMS, Database
from nextact_server.storage.rocks_items import item_from_bytes
from nextact_server.storage.rocks_overlay import Overlay
from nextact_server.storage.seam import ItemRecord


def item(database: Database, overlay: Overlay, item_id: str) -> ItemRecord | None:
    """One item."""
    known, record = overlay.item(item_id)
    if known:
        return record
    raw = database.get(ITEMS, item_id.encode())
    return None if raw is None else item_from_bytes(raw)


def items_after(database: Database, overlay: Overlay, item_id: str) -> Iterator[ItemRecord]:
    """Items with greater ids, ordered by id: the order of their UTF-8 bytes, which is that of their code points."""
    changed = overlay.items()
    fresh = sorted(name.encode() for name, record in changed.items() if record is not None and name > item_id)
    stored = (
        (key, raw)
        for key, raw in database.scan(ITEMS, start=item_id.encode() + b"\x00" if item_id else b"")
        if key.decode() not in changed
    )
    for key, raw in merge(((key, b"") for key in fresh), stored, key=lambda entry: entry[0]):
        record = item_from_bytes(raw) if raw else changed[key.decode()]
        if record is not None:
            yield record


def page(database: Database, overlay: Overlay, after: str, limit: int) -> tuple[ItemRecord, ...]:
    """Up to `limit` items with greater ids, ordered by id."""
    return tuple(islice(items_after(database, overlay, after), limit))
