"""Durable stores for tests: small, so that everything that happens in the background happens soon."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from store_rows import user_key

from nextact_server.storage.rocks import RocksStore
from nextact_server.storage.rocks_database import Database
from nextact_server.storage.rocks_options import StoreOptions
from nextact_server.storage.seam import CommitGroup, Store

PATIENCE = 60.0
SMALL = StoreOptions(cache_bytes=1 << 20, write_buffer_bytes=1 << 20, compact_events=40, purge_within_s=1e9)


class AnyUser:
    """A directory that knows the key of every ordinal, as the tests make them."""

    def keys(self, ordinals: np.ndarray) -> np.ndarray:
        return np.array([user_key(user)[0] for user in ordinals.tolist()], np.uint64).reshape(-1, 2)


def opened(data_dir: Path, write: Callable[..., None] = Database.write_batch, **options: Any) -> RocksStore:
    return RocksStore(data_dir, AnyUser(), replace(SMALL, **options), write=write)


def committed(store: Store, group: CommitGroup) -> BaseException | None:
    return store.commit(group).exception(PATIENCE)


def bytes_of_files(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
