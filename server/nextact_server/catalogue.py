"""The catalogue: items registered once, with text, image and attributes, so that events carry only their ids."""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nextact_server.events.validation import EventLimits
from nextact_server.features.content import Content, ContentEncoder, Encoding
from nextact_server.features.errors import ContentError
from nextact_server.inference.together import all_done
from nextact_server.pipeline import Pipeline
from nextact_server.sequence.index import IndexItem, ItemIndex
from nextact_server.sequence.journal import Journal, when_durable
from nextact_server.storage.seam import CommitGroup, ItemRecord, Store


@dataclass(frozen=True, slots=True)
class NewItem:
    """An item as a caller brings it."""

    item_id: str
    text: str
    image: bytes
    attributes: Mapping[str, str]
    available: bool


@dataclass(frozen=True, slots=True)
class ItemOutcome:
    """What became of one item: whether it was new, or why it was refused (`reason`)."""

    item_id: str
    created: bool
    reason: str = ""


class Catalogue:
    """Registers, returns and removes items: store and index change together, on the thread that owns the index."""

    def __init__(
        self,
        pipeline: Pipeline,
        encoder: ContentEncoder,
        index: ItemIndex,
        store: Store,
        journal: Journal,
        limits: EventLimits,
    ) -> None:
        self._pipeline = pipeline
        self._encoder = encoder
        self._index = index
        self._store = store
        self._journal = journal
        self._limits = limits
        self._underway: dict[str, bool] = {}

    async def upsert(self, items: Sequence[NewItem]) -> list[ItemOutcome]:
        """Registers items, the good ones all together; returns one outcome per item, in order.

        Raises QueueFull where the encoders have no room, IndexFull, StoreUnavailable; then nothing was registered.
        """
        refused = {at: reason for at, item in enumerate(items) if (reason := self._fault(item))}
        shown = [at for at, item in enumerate(items) if at not in refused and (item.text or item.image)]
        encoding = self._encoder.encode_hashed([_content(items[at]) for at in shown])
        vectors: dict[int, tuple[bytes | None, NDArray[np.float32]]] = {}
        for at, outcome in zip(shown, await _vectors(encoding), strict=True):
            if isinstance(outcome, ContentError):
                refused[at] = f"{outcome.field}: {outcome.reason}"
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                vectors[at] = outcome
        good = [at for at in range(len(items)) if at not in refused]
        records = tuple(_record(items[at], *vectors.get(at, (None, None))) for at in good)
        created: set[str] = set()
        if records:
            submission = self._pipeline.run(lambda: self._register(records))
            created = await asyncio.wrap_future(await asyncio.wrap_future(submission.future))
        outcomes = []
        for at, item in enumerate(items):
            outcomes.append(ItemOutcome(item.item_id, item.item_id in created, refused.get(at, "")))
            if at not in refused:
                created.discard(item.item_id)  # a second item of the same id in one call replaces the first
        return outcomes

    async def delete(self, item_id: str) -> bool:
        """Removes an item; returns whether there was one. Raises QueueFull, StoreUnavailable."""
        submission = self._pipeline.run(lambda: self._remove(item_id))
        return bool(await asyncio.wrap_future(await asyncio.wrap_future(submission.future)))

    def get(self, item_id: str) -> ItemRecord | None:
        """One item."""
        return self._store.item(item_id)

    def page(self, after_item_id: str, limit: int) -> tuple[ItemRecord, ...]:
        """Up to `limit` items with ids greater than `after_item_id`, ordered by id."""
        return self._store.items(after_item_id, limit)

    def load(self) -> int:
        """Makes the index hold what the store holds; returns how many items. On the thread that owns the index."""
        records = list(self._store.all_items())
        self._index.reset()
        self._underway.clear()
        self._index.upsert([_indexed(record) for record in records])
        return len(records)

    def _register(self, records: tuple[ItemRecord, ...]) -> "Future[set[str]]":
        created = {record.item_id for record in records if not self._is_there(record.item_id)}
        self._index.upsert([_indexed(record) for record in {record.item_id: record for record in records}.values()])
        durable = self._journal.commit(CommitGroup(sequence=self._journal.sequence + 1, items=records))
        self._underway.update((record.item_id, True) for record in records)
        return when_durable(durable, created)

    def _remove(self, item_id: str) -> "Future[bool]":
        if not self._is_there(item_id):
            return when_durable(self._journal.last, False)
        self._index.delete(item_id)
        durable = self._journal.commit(CommitGroup(sequence=self._journal.sequence + 1, deleted_items=(item_id,)))
        self._underway[item_id] = False
        return when_durable(durable, True)

    def _is_there(self, item_id: str) -> bool:
        """Whether the item is registered, changes on their way to the store included."""
        if self._journal.last.done():
            self._underway.clear()
        known = self._underway.get(item_id)
        return self._store.item(item_id) is not None if known is None else known

    def _fault(self, item: NewItem) -> str:
        size = len(item.item_id.encode())
        if not item.item_id:
            return "item_id is empty; it is required"
        if size > self._limits.id_bytes:
            return f"item_id has {size} bytes; at most {self._limits.id_bytes} are allowed (max_id_bytes)"
        if len(item.image) > self._limits.image_bytes:
            return (
                f"image has {len(item.image)} bytes; at most {self._limits.image_bytes} are allowed (max_image_bytes)"
            )
        size = sum(len(key.encode()) + len(value.encode()) for key, value in item.attributes.items())
        if size > self._limits.properties_bytes:
            limit = self._limits.properties_bytes
            return f"attributes have {size} bytes; at most {limit} are allowed (max_properties_bytes)"
        return ""


def _content(item: NewItem) -> Content:
    return Content(text=item.text or None, image=item.image or None)


async def _vectors(
    encoding: Sequence[Encoding],
) -> list[tuple[bytes | None, NDArray[np.float32]] | BaseException]:
    await all_done([content.vector for content in encoding])
    return [content.vector.exception() or (content.key, content.vector.result()) for content in encoding]


def _record(item: NewItem, content_hash: bytes | None, vector: NDArray[np.float32] | None) -> ItemRecord:
    return ItemRecord(
        item_id=item.item_id,
        text=item.text,
        image=item.image or None,
        attributes=dict(item.attributes),
        available=item.available,
        content_hash=content_hash,
        vector=vector,
    )


def _indexed(record: ItemRecord) -> IndexItem:
    return IndexItem(record.item_id, record.vector, record.attributes, record.available)
