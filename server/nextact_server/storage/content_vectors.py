"""Vectors of content by hash, kept for as long as a history row or an item refers to them."""

import numpy as np
from numpy.typing import NDArray

from nextact_server.events.key_table import KeyTable
from nextact_server.storage.growing import Slots, grown
from nextact_server.storage.seam import HASH_BYTES


class ContentVectors:
    """Content hash -> how often it is referred to, and its vector where one was given. Not thread-safe."""

    def __init__(self) -> None:
        self._table = KeyTable()
        self._slots = Slots()
        self._references = np.zeros(16, np.int64)
        self._has = np.zeros(16, np.bool_)
        self._vectors: NDArray[np.float32] = np.zeros((16, 0), np.float32)

    def __len__(self) -> int:
        """How many hashes are referred to."""
        return len(self._table)

    @property
    def dimension(self) -> int:
        """Length of the vectors, 0 before the first one came."""
        return int(self._vectors.shape[1])

    def refer(self, hashes: NDArray[np.uint8]) -> None:
        """Counts one reference by each of hashes [n, 16]; a zero hash refers to nothing."""
        keys, counts = _counted(hashes)
        if not len(keys):
            return
        slots = self._table.find(keys)
        new = slots < 0
        if new.any():
            slots[new] = self._slots.take(int(new.sum()))
            self._table.add(keys[new], slots[new])
            self._grow()
            self._references[slots[new]] = 0
            self._has[slots[new]] = False
        self._references[slots] += counts

    def release(self, hashes: NDArray[np.uint8]) -> None:
        """Takes references back; what nothing refers to any more is dropped."""
        keys, counts = _counted(hashes)
        if not len(keys):
            return
        slots = self._table.find(keys)
        keys, slots, counts = keys[slots >= 0], slots[slots >= 0], counts[slots >= 0]
        self._references[slots] -= counts
        dead = self._references[slots] <= 0
        self._table.delete(keys[dead])
        self._vectors[slots[dead]] = 0
        self._has[slots[dead]] = False
        self._slots.give_back(slots[dead])

    def put(self, content_hash: bytes, vector: NDArray[np.float32]) -> None:
        """Keeps the vector of a hash that is referred to; that of any other hash is not kept."""
        slot = int(self._table.find(_key(content_hash))[0])
        if slot < 0:
            return
        if not self.dimension:
            self._vectors = np.zeros((len(self._has), len(vector)), np.float32)
        self._vectors[slot] = vector
        self._has[slot] = True

    def get(self, hashes: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """For hashes [n, 16]: whether there is a vector [n], and copies of the vectors [n, D], zero where not."""
        slots = self._table.find(_keys(hashes))
        has = (slots >= 0) & self._has.take(slots, mode="clip")
        vectors = np.zeros((len(slots), self.dimension), np.float32)
        vectors[has] = self._vectors[slots[has]]
        return has, vectors

    def _grow(self) -> None:
        used = self._slots.high_water
        self._references = grown(self._references, used)
        self._has = grown(self._has, used)
        self._vectors = grown(self._vectors, used)


def as_hashes(content_hash: bytes) -> NDArray[np.uint8]:
    """One hash as a column [1, 16]."""
    return np.frombuffer(content_hash, np.uint8).reshape(1, HASH_BYTES)


def _key(content_hash: bytes) -> NDArray[np.uint64]:
    return _keys(as_hashes(content_hash))


def _keys(hashes: NDArray[np.uint8]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(hashes).view(np.uint64)


def _counted(hashes: NDArray[np.uint8]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The distinct hashes that are not zero, as keys, and how often each occurs."""
    keys = _keys(hashes)
    keys = keys[(keys[:, 0] | keys[:, 1]) != 0]
    if len(keys) <= 1:
        return keys, np.ones(len(keys), np.int64)
    distinct, counts = np.unique(keys, axis=0, return_counts=True)
    return distinct, counts
