"""The keys of the store on disk: pseudonyms that nobody can make without a secret kept outside the database."""

import os
import threading
from hashlib import blake2b
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nextact_server.storage.seam import StoreError

KEY_BYTES = 16
"""Length of a user's key and of a message's key on disk."""
_SECRET_BYTES = 32
_CACHED_USERS = 1 << 17
_ROUNDS = 4


class Users(Protocol):
    """What the store asks of `events.identity.UserDirectory`."""

    def keys(self, ordinals: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Keys [n, 2] of users by ordinal."""


class StoreKeys:
    """Makes keys for the disk of user keys and message keys. Thread-safe.

    A user's is the BLAKE2b of the user key under the secret: without the secret it tells nothing, not even whether a
    guessed id is right. Those asked for lately are remembered, a bounded number of them.

    A message's and a content's is a permutation of its 128-bit hash that depends on the secret. It is quick over whole
    columns and no message authentication code: who can read the rows of the store could work the permutation out. It
    keeps hashes that others can make too out of the keys, which RocksDB repeats in files of its own, no more.
    """

    def __init__(self, secret: bytes, directory: Users) -> None:
        self._secret = secret
        self._directory = directory
        self._lock = threading.Lock()
        nobody = np.frombuffer(bytes(KEY_BYTES) + self._digest(bytes(KEY_BYTES)), np.uint64)
        self._known = np.tile(nobody, (_CACHED_USERS, 1))
        """[slots, 4]: a user's key, and beside it the key on disk."""
        material = b"".join(blake2b(bytes([n]), key=secret, person=b"message ids").digest() for n in range(_ROUNDS))
        self._rounds = np.frombuffer(material, np.uint64).reshape(_ROUNDS, -1) | np.uint64(1)

    def of_users(self, user_keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Keys on disk [n, 2] of users by their key [n, 2]."""
        slots = (user_keys[:, 0] & np.uint64(_CACHED_USERS - 1)).astype(np.int64)
        with self._lock:
            found = self._known.take(slots, axis=0)
        made = found[:, 2:]
        missing = np.flatnonzero((found[:, 0] != user_keys[:, 0]) | (found[:, 1] != user_keys[:, 1]))
        if len(missing):
            plain = user_keys[missing]
            made[missing] = np.frombuffer(b"".join(map(self._digest, sliced(plain))), np.uint64).reshape(-1, 2)
            with self._lock:
                self._known[slots[missing]] = np.concatenate([plain, made[missing]], axis=1)
        return made

    def of_ordinals(self, ordinals: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Keys on disk [n, 2] of users by ordinal; a negative ordinal gets a key that no user has."""
        known = ordinals >= 0
        if known.all():
            return self.of_users(self._directory.keys(ordinals))
        plain = np.zeros((len(ordinals), 2), np.uint64)
        plain[known] = self._directory.keys(ordinals[known])
        return self.of_users(plain)

    def of_hashes(self, hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Keys on disk [n, 2] of messages by their key, or of contents by their hash, [n, 2].

        A Feistel network, so that different hashes stay different.
        """
        left, right = hashes[:, 0].copy(), hashes[:, 1].copy()
        for one in self._rounds:
            mixed = right ^ one[0]
            mixed *= one[1]
            mixed ^= mixed >> np.uint64(29)
            mixed += one[2]
            mixed *= one[3]
            mixed ^= mixed >> np.uint64(32)
            left ^= mixed
            left, right = right, left
        return np.stack([left, right], axis=1)

    def _digest(self, user_key: bytes) -> bytes:
        return blake2b(user_key, key=self._secret, digest_size=KEY_BYTES).digest()


def sliced(keys: NDArray[np.uint64]) -> list[bytes]:
    """Keys [n, 2] as n strings of 16 bytes."""
    whole = keys.tobytes()
    return [whole[at : at + KEY_BYTES] for at in range(0, len(whole), KEY_BYTES)]


def load_secret(path: Path, *, create: bool) -> bytes:
    """Reads the secret of a store, or makes one that only the owner of the file can read.

    Raises:
        StoreError: there is none and `create` is not set, or the file holds something else.
    """
    if create and not path.exists():
        made = os.urandom(_SECRET_BYTES)
        unfinished = path.with_name(path.name + ".new")
        handle = os.open(unfinished, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        try:
            os.write(handle, made)
            os.fsync(handle)
        finally:
            os.close(handle)
        unfinished.rename(path)
        sync_directory(path.parent)
        return made
    try:
        secret = path.read_bytes()
    except FileNotFoundError as error:
        reason = f"{path} is missing: no user of the database beside it can be found without it; put it back"
        raise StoreError(reason) from error
    if len(secret) != _SECRET_BYTES:
        raise StoreError(f"{path} has {len(secret)} bytes, {_SECRET_BYTES} are wanted; put the right file back")
    return secret


def sync_directory(path: Path) -> None:
    """Makes the entries of a directory durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
