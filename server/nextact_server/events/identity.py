"""Who an event is about: 128-bit user keys, and the dense ordinals that stand for them in this process."""

import threading
from functools import lru_cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nextact_server.events.hashing import StringArray, byte_lengths, hash_strings
from nextact_server.events.key_table import KeyTable

_USER, _ANONYMOUS = 1, 2


def user_keys(
    user_id: StringArray | None, anonymous_id: StringArray | None, tenant: str = ""
) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Keys of the users that n events are about: a hash of (tenant, kind, id).

    A non-empty user_id wins over anonymous_id. The kinds are hashed apart: anonymous "x" is never user "x". A row with
    neither id gets a key too, that of the anonymous visitor ''; such rows are for validation to refuse.

    Args:
        user_id: column of n rows as for `hash_strings`, or None where the events bring none.
        anonymous_id: the same; at least one of the two is given.
        tenant: whose users they are.

    Returns:
        uint64 [n, 2], and whether the key is of an anonymous visitor, bool [n].

    Raises:
        ValueError: neither column is given.
    """
    if user_id is None:
        if anonymous_id is None:
            raise ValueError("user_id and anonymous_id are both missing; one of the columns is required")
        return hash_strings(anonymous_id, _seed(tenant, _ANONYMOUS)), np.ones(len(anonymous_id), np.bool_)
    keys = hash_strings(user_id, _seed(tenant, _USER))
    anonymous = byte_lengths(user_id) == 0
    if anonymous.any():
        seed = _seed(tenant, _ANONYMOUS)
        if anonymous_id is None:
            keys[anonymous] = hash_strings(pa.array([""]), seed)
        else:
            keys[anonymous] = hash_strings(anonymous_id, seed)[anonymous]
    return keys, anonymous


def user_seed(tenant: str = "") -> int:
    """The seed with which `hash_strings` makes the keys of known users of their ids."""
    return _seed(tenant, _USER)


@lru_cache(maxsize=1024)
def _seed(tenant: str, kind: int) -> int:
    """128 bits for one kind of id of one tenant."""
    low, high = hash_strings(pa.array([tenant]), kind)[0].tolist()
    return int(low) | int(high) << 64


class UserDirectory:
    """User key <-> dense ordinal, for the life of the process. Safe to use from any thread.

    Ordinals count up from 0 in the order in which users are first resolved, and are never given to a second user. The
    directory knows hashes only, no ids.
    """

    def __init__(self, capacity: int = 1024) -> None:
        """Makes an empty directory with room for `capacity` users before it first grows."""
        self._lock = threading.Lock()
        self._table = KeyTable(capacity)
        self._keys = np.zeros((max(capacity, 1), 2), np.uint64)
        self._known = 0

    def __len__(self) -> int:
        """How many users are known now."""
        return len(self._table)

    @property
    def ordinals(self) -> int:
        """How many ordinals were given out, ever: all are below this."""
        return self._known

    def resolve(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Ordinals [n] of users by key [n, 2]; those not known become known."""
        with self._lock:
            ordinals, new = self._table.find_or_insert(keys)
            if new.any():
                self._known = max(self._known, int(ordinals.max()) + 1)
                while len(self._keys) < self._known:
                    self._keys = np.concatenate([self._keys, np.zeros_like(self._keys)])
                self._keys[ordinals[new]] = keys[new]
            return ordinals

    def find(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Ordinals [n] of users by key [n, 2]; -1 for those not known."""
        with self._lock:
            return self._table.find(keys)

    def keys(self, ordinals: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Keys [n, 2] of users by ordinal; zeros for those forgotten."""
        with self._lock:
            return self._keys[ordinals]

    def forget(self, keys: NDArray[np.uint64]) -> None:
        """Drops users: should they come again, they get new ordinals."""
        with self._lock:
            ordinals = self._table.find(keys)
            self._table.delete(keys)
            self._keys[ordinals[ordinals >= 0]] = 0
