"""A hash table from 128-bit keys to int64 values that is asked with whole columns.

Buckets of eight slots, so that one gather of its home bucket settles a key. The few keys that find their home full
(one in fifty at the highest load) are spilled to a dict by bucket, which is looked into for marked buckets only.

The table grows a little with each insertion and never all at once: it is a linear hash table (Litwin, 1980), in which
the buckets below a moving boundary are already split in two by one more bit of the key. So no caller pays for all keys.

Keys are taken to be hashes already: their low bits choose the bucket. Any keys give right answers; keys whose low bits
agree give slow ones.
"""

import numpy as np
from numpy.typing import NDArray

_SLOTS = 8
_ROW = 3 * _SLOTS
"""A bucket is one row of int64: eight first lanes, eight second lanes, eight values plus 1 (0: the slot is free)."""
_VALUES = 2 * _SLOTS
_SPLIT_FROM, _SPLIT_BY = 0.45, 0.65
"""Loads, of the buckets before a doubling, at which splitting them begins and must be over."""
_SPLIT_STEP = 256
"""Fewest buckets that are split at a time."""


class KeyTable:
    """Maps keys uint64 [n, 2] to values int64 >= 0. Not thread-safe: the caller holds a lock."""

    def __init__(self, capacity: int = 64) -> None:
        """Makes an empty table that takes `capacity` keys before it grows."""
        self._base = 1
        while self._base * _SLOTS * _SPLIT_FROM < capacity:
            self._base *= 2
        self._split = 0
        self._count = 0
        self._next_ordinal = 0
        self._table = np.zeros((self._base, _ROW), np.int64)
        self._marked = np.zeros(self._base, np.bool_)
        self._spilled: dict[int, dict[tuple[int, int], int]] = {}

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Bytes that the slots occupy."""
        return self._table.nbytes + self._marked.nbytes

    def find(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Values [n] of keys [n, 2]; -1 for a key that is not there."""
        signed = keys.view(np.int64)
        home = self._home(signed)
        address = self._addresses(signed, home)
        values = self._table.reshape(-1).take(address, mode="clip")
        values -= 1
        missing = address < 0
        values[missing] = -1
        if self._spilled:
            for row, key in self._spilled_rows(signed, home, missing):
                values[row] = self._spilled[int(home[row])].get(key, -1)
        return values

    def find_or_insert(self, keys: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Ordinals of keys, giving dense ones to new keys in the order of their first appearance, ever.

        A deleted key that comes again is new; ordinals are not used twice.

        Returns:
            The ordinals [n], and whether the key was new with this call [n]; of equal new keys all are.
        """
        values = self.find(keys)
        new = values < 0
        rows = new.nonzero()[0]
        if len(rows):
            first, inverse = _distinct(keys[rows])
            ordinals = np.arange(self._next_ordinal, self._next_ordinal + len(first))
            self._next_ordinal += len(first)
            self.add(keys[rows[first]], ordinals)
            values[rows] = ordinals[inverse]
        return values, new

    def set(self, keys: NDArray[np.uint64], values: NDArray[np.int64]) -> None:
        """Sets the values [n], >= 0, of keys [n, 2]; of equal keys the last one counts."""
        self.delete(keys)
        # Distinct from behind, so that the last of equal keys is the one that is kept.
        last, _ = _distinct(keys[::-1])
        kept = len(keys) - 1 - last
        self.add(keys[kept], values[kept])

    def add(self, keys: NDArray[np.uint64], values: NDArray[np.int64]) -> None:
        """Adds keys that the caller knows to be distinct and not in the table: `set` without looking first."""
        self._count += len(keys)
        self._grow()
        self._place(keys.view(np.int64), values)

    def delete(self, keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Removes keys [n, 2], leaving no trace of them; returns whether each was there."""
        signed = keys.view(np.int64)
        home = self._home(signed)
        address = self._addresses(signed, home)
        found = address >= 0
        gone = np.unique(address[found])
        flat = self._table.reshape(-1)
        for lane in (0, _SLOTS, _VALUES):
            flat[gone - lane] = 0
        self._count -= len(gone)
        if self._spilled:
            for row, key in self._spilled_rows(signed, home, ~found):
                found[row] = key in self._spilled[int(home[row])]
            for row, key in self._spilled_rows(signed, home, found & (address < 0)):
                self._unspill(int(home[row]), key)
        return found

    def _home(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """The bucket that each key belongs to."""
        if not self._split:
            return keys[:, 0] & (self._base - 1)
        home = keys[:, 0] & (2 * self._base - 1)
        home[home >= self._base + self._split] -= self._base
        return home

    def _addresses(self, keys: NDArray[np.int64], home: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the value of each key lies in the flat table, -1 where the key is not in its home bucket."""
        slots = self._table.take(home, axis=0, mode="clip")
        equal = slots[:, :_SLOTS] == keys[:, :1]
        equal &= slots[:, _SLOTS:_VALUES] == keys[:, 1:]
        equal &= slots[:, _VALUES:] > 0
        row, slot = equal.nonzero()
        slot += _VALUES
        if len(row) == len(home):
            every: NDArray[np.int64] = home * _ROW + slot
            return every
        addresses = np.full(len(home), -1, np.int64)
        addresses[row] = home[row] * _ROW + slot
        return addresses

    def _spilled_rows(
        self, keys: NDArray[np.int64], home: NDArray[np.int64], chosen: NDArray[np.bool_]
    ) -> list[tuple[int, tuple[int, int]]]:
        """The chosen rows whose bucket has spilled keys, with their keys."""
        rows = (chosen & self._marked.take(home, mode="clip")).nonzero()[0]
        return [(row, (first, second)) for row, (first, second) in zip(rows.tolist(), keys[rows].tolist(), strict=True)]

    def _unspill(self, bucket: int, key: tuple[int, int]) -> None:
        if self._spilled.get(bucket, {}).pop(key, None) is not None:
            self._count -= 1
            if not self._spilled[bucket]:
                del self._spilled[bucket]
                self._marked[bucket] = False

    def _place(self, keys: NDArray[np.int64], values: NDArray[np.int64]) -> None:
        """Writes keys that are not in the table into their home buckets, or spills them."""
        home = self._home(keys)
        free = self._table[home, _VALUES:] == 0
        # The slot for the key of rank r among those of its bucket is the (r+1)-th free one.
        wanted = free if len(keys) == 1 else (free.cumsum(axis=1) == _rank_within(home)[:, None] + 1) & free
        fits = wanted.any(axis=1)
        slot = wanted.argmax(axis=1)
        if not fits.all():
            over = ~fits
            for bucket, (first, second), value in zip(
                home[over].tolist(), keys[over].tolist(), values[over].tolist(), strict=True
            ):
                self._spilled.setdefault(bucket, {})[first, second] = value
            self._marked[home[over]] = True
            keys, values, home, slot = keys[fits], values[fits], home[fits], slot[fits]
        address = home * _ROW + slot
        flat = self._table.reshape(-1)
        flat[address] = keys[:, 0]
        flat[address + _SLOTS] = keys[:, 1]
        flat[address + _VALUES] = values + 1

    def _grow(self) -> None:
        """Splits as many buckets as the number of keys asks for."""
        while True:
            load = self._count / (self._base * _SLOTS)
            share = (load - _SPLIT_FROM) / (_SPLIT_BY - _SPLIT_FROM)
            due = min(self._base, int(share * self._base))
            if due <= self._split:
                return
            self._split_until(min(self._base, max(due, self._split + _SPLIT_STEP)))
            if self._split == self._base:
                self._base, self._split = 2 * self._base, 0

    def _split_until(self, end: int) -> None:
        """Splits buckets up to `end`: what has the next bit set goes to the bucket `base` higher."""
        start, base = self._split, self._base
        self._reserve(base + end)
        lower = self._table[start:end].reshape(-1, 3, _SLOTS)
        goes = ((lower[:, 0] & base) != 0)[:, None]
        upper = lower * goes
        self._table[base + start : base + end] = upper.reshape(-1, _ROW)
        lower -= upper
        self._split = end
        spilled = (self._marked[start:end].nonzero()[0] + start).tolist()
        entries = [entry for bucket in spilled for entry in self._spilled.pop(bucket).items()]
        if entries:
            self._marked[spilled] = False
            keys = np.array([key for key, _ in entries], np.int64)
            self._place(keys, np.array([value for _, value in entries], np.int64))

    def _reserve(self, buckets: int) -> None:
        """Makes room in place: the system moves pages where it can, so that not even this copies the table."""
        room = len(self._table)
        if room < buckets:
            room = max(buckets, room + min(room, max(1 << 14, room >> 4)))
            # No view of either array outlives the call that made it.
            self._table.resize((room, _ROW), refcheck=False)
            self._marked.resize(room, refcheck=False)


def _rank_within(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each row, how many rows before it have the same group."""
    if len(groups) == 1:
        return np.zeros(1, np.int64)
    order = groups.argsort(kind="stable")
    ordered = groups[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    lengths = np.diff(starts, append=len(groups))
    rank = np.empty(len(groups), np.int64)
    rank[order] = np.arange(len(groups)) - np.repeat(starts, lengths)
    return rank


def _distinct(keys: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the first appearance of each key, rising, and for each row the position of its key among those."""
    n = len(keys)
    everyone = np.arange(n)
    if n == 1:
        return everyone, everyone
    lane = np.sort(keys[:, 0])
    if not (lane[1:] == lane[:-1]).any():
        return everyone, everyone
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    ordered = keys[order]
    begins = np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(axis=1)])
    first = order[begins]
    group = np.empty(n, np.int64)
    group[order] = np.cumsum(begins) - 1
    by_appearance = np.argsort(first)
    position = np.empty(len(first), np.int64)
    position[by_appearance] = np.arange(len(first))
    return first[by_appearance], position[group]
