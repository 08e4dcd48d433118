"""The items of the catalogue, by id and in the order of ids."""

from bisect import bisect_right

from nextact_server.storage.seam import ItemRecord


class Catalogue:
    """Item id -> record. Ids compare by code point, which is the order of their UTF-8 bytes. Not thread-safe."""

    def __init__(self) -> None:
        self._items: dict[str, ItemRecord] = {}
        self._ordered: list[str] = []
        self._in_order = True

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: ItemRecord) -> ItemRecord | None:
        """Registers or replaces an item; returns the one it replaced."""
        replaced = self._items.get(item.item_id)
        self._items[item.item_id] = item
        if replaced is None:
            self._in_order = False
        return replaced

    def remove(self, item_id: str) -> ItemRecord | None:
        """Removes an item; returns it, None if there was none."""
        removed = self._items.pop(item_id, None)
        if removed is not None:
            self._in_order = False
        return removed

    def get(self, item_id: str) -> ItemRecord | None:
        """One item."""
        return self._items.get(item_id)

    def page(self, after_item_id: str, limit: int) -> tuple[ItemRecord, ...]:
        """Up to `limit` items with greater ids, ordered by id. The first page after a change sorts the ids once."""
        if not self._in_order:
            self._ordered = sorted(self._items)
            self._in_order = True
        start = bisect_right(self._ordered, after_item_id) if after_item_id else 0
        return tuple(self._items[item_id] for item_id in self._ordered[start : start + limit])

    def all(self) -> list[ItemRecord]:
        """Every item as of now."""
        return list(self._items.values())
