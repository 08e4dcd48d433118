"""Vectors of content, kept in the database for as long as an event or an item refers to them.

A reference is a row of its own, (content, who): writing it twice counts once, so that compaction may be repeated after
a crash. Whoever takes references away marks their content; of what is marked, that without a reference is dropped.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nextact_server.storage.rocks_database import CONTENT, META, REFERENCES, Batch, Database
from nextact_server.storage.rocks_keys import StoreKeys, sliced
from nextact_server.storage.rocks_overlay import Overlay
from nextact_server.storage.seam import HASH_BYTES

_USER, _ITEM = b"\x00", b"\x01"
_MARK = b"loose/"


class References:
    """Content on disk, by the hash of its bytes. One thread, that of the compaction, changes it; any may read."""

    def __init__(self, database: Database, overlay: Overlay, keys: StoreKeys) -> None:
        self._database = database
        self._overlay = overlay
        self._keys = keys

    def add_users(self, batch: Batch, hashes: Sequence[bytes], users: Sequence[bytes]) -> None:
        """Lets users' events refer to contents, pair by pair."""
        for key, user in zip(self._of(hashes), users, strict=True):
            batch.put(REFERENCES, key + _USER + user, b"")

    def add_item(self, batch: Batch, content_hash: bytes, item_id: str) -> None:
        """Lets an item refer to its content."""
        batch.put(REFERENCES, self._of([content_hash])[0] + _ITEM + item_id.encode(), b"")

    def release_user(self, batch: Batch, hashes: Sequence[bytes], user: bytes) -> None:
        """Takes away a user's references to contents."""
        for key, content_hash in zip(self._of(hashes), hashes, strict=True):
            batch.delete(REFERENCES, key + _USER + user)
            batch.put(META, _MARK + key, content_hash)

    def release_item(self, batch: Batch, content_hash: bytes, item_id: str) -> None:
        """Takes away an item's reference to its content."""
        key = self._of([content_hash])[0]
        batch.delete(REFERENCES, key + _ITEM + item_id.encode())
        batch.put(META, _MARK + key, content_hash)

    def put(self, batch: Batch, content_hash: bytes, vector: NDArray[np.float32], *, referred: bool) -> None:
        """Keeps a vector, if it is `referred` to by what the compaction writes, or by what the database has."""
        key = self._of([content_hash])[0]
        if referred or self._is_referred(key):
            batch.put(CONTENT, key, vector.tobytes())

    def drop_loose(self) -> None:
        """Drops the vectors that nothing refers to any more. What the generations refer to stays marked."""
        batch = self._database.batch()
        for mark, content_hash in self._database.scan(META, _MARK):
            if self._overlay.refers_to(content_hash):
                continue
            key = mark[len(_MARK) :]
            if not self._is_referred(key):
                batch.delete(CONTENT, key)
            batch.delete(META, mark)
        if len(batch):
            self._database.write(batch)

    def vectors(self, hashes: NDArray[np.uint8], dimension: int) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """For hashes [n, 16]: whether a vector is kept [n], and the vectors [n, dimension], zero where not."""
        names = sliced(np.ascontiguousarray(hashes).view(np.uint64))
        found = self._overlay.content(names)
        wanted = [at for at, vector in enumerate(found) if vector is None]
        keys = self._of([names[at] for at in wanted])
        for at, raw in zip(wanted, self._database.get_all(CONTENT, keys), strict=True):
            if raw is not None:
                found[at] = np.frombuffer(raw, np.float32)
        result = np.zeros((len(names), dimension), np.float32)
        has = np.zeros(len(names), np.bool_)
        for at, vector in enumerate(found):
            if vector is not None:
                has[at], result[at] = True, vector
        return has, result

    def _of(self, hashes: Sequence[bytes]) -> list[bytes]:
        whole = np.frombuffer(b"".join(hashes), np.uint64).reshape(-1, HASH_BYTES // 8)
        return sliced(self._keys.of_hashes(whole))

    def _is_referred(self, key: bytes) -> bool:
        return next(self._database.scan(REFERENCES, key), None) is not None
