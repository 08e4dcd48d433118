"""The content cache: vectors by content hash, bounded in bytes, each computed once however many ask for it at once."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Protocol

import numpy as np

from nextact_server.features.vectors import Vector

__all__ = ["CacheObserver", "ContentHash", "SilentCacheObserver", "VectorCache"]

ContentHash = bytes
"""16 bytes of BLAKE2b."""

ENTRY_OVERHEAD = 320
"""Bytes of an entry beside its vector's numbers: key, array object, places in the table and in the order (measured)."""


class CacheObserver(Protocol):
    """Counts what the cache does; called from several threads, without its lock held."""

    def cache_lookups(self, hits: int, misses: int, joined: int) -> None:
        """So many contents were found, were not, or are being computed for another caller already."""

    def cache_evicted(self, entries: int) -> None:
        """So many vectors had to leave."""

    def cache_size(self, entries: int, size_bytes: int) -> None:
        """What the cache holds now."""


class SilentCacheObserver:
    """An observer that keeps nothing."""

    def cache_lookups(self, hits: int, misses: int, joined: int) -> None:
        """Ignore it."""

    def cache_evicted(self, entries: int) -> None:
        """Ignore it."""

    def cache_size(self, entries: int, size_bytes: int) -> None:
        """Ignore it."""


class VectorCache:
    """Least recently used vectors, and the computations under way.

    A computation belongs to the cache: every caller gets a future of his own, and cancelling it leaves the computation
    and everyone else's future alone. A failure goes to all who wait for it and is not kept, so the next asks anew.
    """

    def __init__(self, max_bytes: int, observer: CacheObserver | None = None) -> None:
        if max_bytes < 0:
            raise ValueError(f"max_bytes of the content cache must not be negative, but is {max_bytes}")
        self._max_bytes = max_bytes
        self._observer: CacheObserver = observer or SilentCacheObserver()
        self._lock = threading.Lock()
        self._entries: OrderedDict[ContentHash, Vector] = OrderedDict()
        self._bytes = 0
        self._waiting: dict[ContentHash, list[Future[Vector]]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size_bytes(self) -> int:
        """What the entries take, never over the bound."""
        return self._bytes

    @property
    def computing(self) -> int:
        """How many contents are being computed."""
        return len(self._waiting)

    def get(self, key: ContentHash) -> Vector | None:
        """Return the vector of a content (read-only), which makes it the most recently used; None if it is not here."""
        return self.get_many((key,))[0]

    def get_many(self, keys: Sequence[ContentHash]) -> list[Vector | None]:
        """Look up many at once. Counts as lookups like any other."""
        with self._lock:
            found = [self._touch(key) for key in keys]
        misses = sum(vector is None for vector in found)
        self._observer.cache_lookups(len(found) - misses, misses, 0)
        return found

    def put_many(self, entries: Iterable[tuple[ContentHash, Vector]]) -> None:
        """Keep vectors computed elsewhere, such as those stored before a restart. Known ones stay as they are."""
        with self._lock:
            evicted = sum(self._keep(key, vector) for key, vector in entries if key not in self._entries)
        self._tell(evicted)

    def claim(self, keys: Sequence[ContentHash]) -> tuple[list[Future[Vector]], list[int]]:
        """Return a future for each key, and the places of those that nobody computes yet.

        The caller must see that each of these is answered by `settle` or `fail`, whatever becomes of the future.
        """
        futures: list[Future[Vector]] = []
        claimed: list[int] = []
        done: list[tuple[Future[Vector], Vector]] = []
        joined = 0
        with self._lock:
            for place, key in enumerate(keys):
                future: Future[Vector] = Future()
                futures.append(future)
                vector = self._touch(key)
                if vector is not None:
                    done.append((future, vector))
                elif key in self._waiting:
                    self._waiting[key].append(future)
                    joined += 1
                else:
                    self._waiting[key] = [future]
                    claimed.append(place)
        for future, vector in done:
            future.set_result(vector)
        self._observer.cache_lookups(len(done), len(claimed), joined)
        return futures, claimed

    def settle(self, key: ContentHash, vector: Vector) -> None:
        """Keep what was computed and give it to all who wait for it."""
        vector = _frozen(vector)
        with self._lock:
            evicted = self._keep(key, vector) if key not in self._entries else 0
            waiting = self._waiting.pop(key, [])
        self._tell(evicted)
        _answer(waiting, lambda future: future.set_result(vector))

    def fail(self, key: ContentHash, error: BaseException) -> None:
        """Give an error to all who wait, and keep nothing."""
        with self._lock:
            waiting = self._waiting.pop(key, [])
        _answer(waiting, lambda future: future.set_exception(error))

    def _touch(self, key: ContentHash) -> Vector | None:
        vector = self._entries.get(key)
        if vector is not None:
            self._entries.move_to_end(key)
        return vector

    def _keep(self, key: ContentHash, vector: Vector) -> int:
        """Insert under the lock, and return how many had to leave for it."""
        vector = _frozen(vector)
        cost = vector.nbytes + ENTRY_OVERHEAD
        if cost > self._max_bytes:
            return 0
        self._entries[key] = vector
        self._bytes += cost
        evicted = 0
        while self._bytes > self._max_bytes:
            _, oldest = self._entries.popitem(last=False)
            self._bytes -= oldest.nbytes + ENTRY_OVERHEAD
            evicted += 1
        return evicted

    def _tell(self, evicted: int) -> None:
        if evicted:
            self._observer.cache_evicted(evicted)
        self._observer.cache_size(len(self._entries), self._bytes)


def _frozen(vector: Vector) -> Vector:
    """A read-only vector that owns its numbers: a view would keep the whole batch it was cut from alive."""
    if vector.base is None and not vector.flags.writeable:
        return vector
    own: Vector = np.array(vector, dtype=np.float32)
    own.flags.writeable = False
    return own


def _answer(waiting: Sequence[Future[Vector]], settle: Callable[[Future[Vector]], None]) -> None:
    for future in waiting:
        if future.set_running_or_notify_cancel():
            settle(future)
