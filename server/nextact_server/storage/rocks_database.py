"""RocksDB itself: column families and their options, opening and closing beside readers, errors that say what to do."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rocksdict import (
    BlockBasedOptions,
    BottommostLevelCompaction,
    Cache,
    Checkpoint,
    ColumnFamily,
    CompactOptions,
    DBCompressionType,
    Options,
    Rdict,
    RdictIter,
    WriteBatch,
    WriteBufferManager,
    WriteOptions,
)

from nextact_server.storage.seam import StoreClosedError, StoreError, StoreFailedError

MIB = 1 << 20
META, SEGMENTS, USERS, HISTORY, MESSAGES = "meta", "segments", "users", "history", "messages"
STATES, CONTENT, REFERENCES, ITEMS, SUPPRESSED = "states", "content", "references", "items", "suppressed"
FAMILIES = (META, SEGMENTS, USERS, HISTORY, MESSAGES, STATES, CONTENT, REFERENCES, ITEMS, SUPPRESSED)
_LOOKED_UP = {USERS, MESSAGES, STATES, CONTENT, SUPPRESSED, ITEMS}
"""Families that are asked for single keys, often in vain: they get Bloom filters, on disk and in memory."""
_INCOMPRESSIBLE = {MESSAGES, STATES, CONTENT, REFERENCES, SEGMENTS}


class Database:
    """One RocksDB, opened and closed as a whole. Reads may run on any thread; `close` waits for them."""

    def __init__(self, path: Path, *, cache_bytes: int, write_buffer_bytes: int, compress: bool = True) -> None:
        self.path = path
        self._compress = compress
        self._cache = Cache(cache_bytes)
        self._buffers = WriteBufferManager(write_buffer_bytes, False)
        self._write_buffer = min(32 * MIB, write_buffer_bytes)
        self._db: Rdict | None = None
        self._families: dict[str, Rdict] = {}
        self._handles: dict[str, ColumnFamily] = {}
        self._changed = threading.Condition()
        self._readers = 0
        self._closing = True
        self._closed_for_good = False

    # Opening and closing --------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Opens or creates it.

        Raises:
            StoreError: another process has it open, it is damaged, or the directory cannot be used; says which.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            options = _of_database(self._buffers)
            families = {name: self._of_family(name) for name in FAMILIES}
            self._db = Rdict(str(self.path), options, families)
            self._families = {name: self._db.get_column_family(name) for name in FAMILIES}
            self._handles.update((name, self._db.get_column_family_handle(name)) for name in FAMILIES)
        except Exception as error:
            self.let_go()
            raise StoreError(_explained(self.path, error)) from error

    def admit(self) -> None:
        """Lets readers in; until then they wait. Where it is not open, they fail."""
        with self._changed:
            self._closing = False
            self._changed.notify_all()

    def close(self, *, for_good: bool = False) -> None:
        """Waits for the readers and closes it. Readers that come later wait for `admit`, unless it is for good."""
        with self._changed:
            self._closing = True
            self._closed_for_good = self._closed_for_good or for_good
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._readers == 0)
        self.let_go()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Holds it open. What is read, iterators above all, must be let go before the end.

        Raises StoreClosedError, StoreFailedError.
        """
        with self._changed:
            while self._closing and not self._closed_for_good:
                self._changed.wait()
            if self._closed_for_good:
                raise StoreClosedError("the store is closed")
            if self._db is None:
                raise StoreFailedError(f"{self.path} failed and is not open; reopen the store first")
            self._readers += 1
        try:
            yield
        finally:
            with self._changed:
                self._readers -= 1
                if self._closing and not self._readers:
                    self._changed.notify_all()

    # Inside `reading` -----------------------------------------------------------------------------------------------

    def get(self, family: str, key: bytes) -> bytes | None:
        """One value."""
        with _named(self.path):
            value: bytes | None = self._families[family].get(key)
            return value

    def get_all(self, family: str, keys: list[bytes]) -> list[bytes | None]:
        """Values of many keys, of one moment."""
        with _named(self.path):
            asked: Any = keys
            found: Any = self._families[family].get(asked) if keys else []
            values: list[bytes | None] = found
            return values

    def iterator(self, family: str) -> RdictIter:
        """An iterator over what is there now."""
        with _named(self.path):
            return self._families[family].iter()

    def scan(self, family: str, prefix: bytes = b"", start: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Keys with a prefix, rising from `start`, and their values."""
        iterator = self.iterator(family)
        iterator.seek(prefix if start is None else start)
        while iterator.valid():
            key = iterator.key()
            if not key.startswith(prefix):
                return
            yield key, iterator.value()
            iterator.next()
        with _named(self.path):
            iterator.status()

    def get_last(self, family: str, prefix: bytes, at_most: bytes) -> bytes | None:
        """The value of the greatest key with a prefix that is not above another key."""
        iterator = self.iterator(family)
        iterator.seek_for_prev(at_most)
        value: bytes | None = iterator.value() if iterator.valid() and iterator.key().startswith(prefix) else None
        return value

    def batch(self) -> "Batch":
        """An empty batch."""
        return Batch(self._handles)

    def write(self, batch: "Batch", *, sync: bool = False) -> None:
        """Writes a batch atomically; with `sync` it is on disk when this returns. Raises StoreError."""
        options = WriteOptions()
        options.sync = sync
        with _named(self.path):
            self._open_db().write(batch.inner, options)

    def write_batch(self, batch: "Batch", sync: bool) -> None:
        """As `write`."""
        self.write(batch, sync=sync)

    def sync(self) -> None:
        """Brings to disk what was written without `sync`."""
        with _named(self.path):
            self._open_db().flush_wal(True)

    def flush(self) -> None:
        """Moves everything from the log to table files, so that the log's files are deleted."""
        with _named(self.path):
            for name in FAMILIES:
                self._families[name].flush(True)

    def compact(self, family: str, start: bytes | None = None, stop: bytes | None = None) -> None:
        """Rewrites the files that have keys in a range, without what was deleted."""
        options = CompactOptions()
        options.set_exclusive_manual_compaction(False)
        options.set_bottommost_level_compaction(BottommostLevelCompaction.force())
        with _named(self.path):
            self._families[family].compact_range(start, stop, options)

    def checkpoint(self, path: Path) -> None:
        """Makes a copy of this moment in a directory that does not exist yet, by hard links where it can."""
        with _named(self.path):
            Checkpoint(self._open_db()).create_checkpoint(str(path))

    def property(self, family: str, name: str) -> int:
        """A number that RocksDB keeps, as "rocksdb.estimate-num-keys"."""
        return self._families[family].property_int_value(name) or 0

    def _open_db(self) -> Rdict:
        if self._db is None:
            raise StoreFailedError(f"{self.path} is not open")
        return self._db

    def let_go(self) -> None:
        """Closes it without waiting for anyone."""
        self._handles.clear()  # batches share it: one that is left over must not hold the database open
        families, self._families = self._families, {}
        db, self._db = self._db, None
        for one in (*families.values(), db):
            if one is not None:
                # It flushes first, and fails if that does; the log has it all, and letting go of the object closes it.
                with suppress(Exception):
                    one.close()

    def _of_family(self, name: str) -> Options:
        options = Options(raw_mode=True)
        table = BlockBasedOptions()
        table.set_block_cache(self._cache)
        table.set_format_version(5)
        table.set_block_size((4 if name in _LOOKED_UP else 16) * 1024)
        table.set_cache_index_and_filter_blocks(True)
        table.set_pin_l0_filter_and_index_blocks_in_cache(True)
        if name in _LOOKED_UP:
            table.set_bloom_filter(10, False)
            # Without it a key that is not there costs a walk through the memtable: 4 us instead of .4 us.
            options.set_memtable_prefix_bloom_ratio(0.1)
            options.set_memtable_whole_key_filtering(True)
        options.set_block_based_table_factory(table)
        options.set_write_buffer_size(self._write_buffer)
        options.set_level_zero_file_num_compaction_trigger(2)
        options.set_level_compaction_dynamic_level_bytes(True)
        if name in _INCOMPRESSIBLE or not self._compress:
            options.set_compression_type(DBCompressionType.none())
        else:
            options.set_compression_type(DBCompressionType.lz4())
            if name == HISTORY:
                options.set_bottommost_compression_type(DBCompressionType.zstd())
        return options


class Batch:
    """Changes to be written together. A later change of a key wins."""

    def __init__(self, handles: dict[str, ColumnFamily]) -> None:
        self.inner = WriteBatch(raw_mode=True)
        self._handles = handles

    def __len__(self) -> int:
        return len(self.inner)

    def put(self, family: str, key: bytes, value: bytes) -> None:
        """Sets a key."""
        self.inner.put(key, value, self._handles[family])

    def put_all(self, family: str, keys: Iterable[bytes], values: Iterable[bytes]) -> None:
        """Sets many keys."""
        put, handle = self.inner.put, self._handles[family]
        for key, value in zip(keys, values, strict=True):
            put(key, value, handle)

    def delete(self, family: str, key: bytes) -> None:
        """Removes a key."""
        self.inner.delete(key, self._handles[family])

    def delete_range(self, family: str, start: bytes, stop: bytes) -> None:
        """Removes the keys from `start` to below `stop`."""
        self.inner.delete_range(start, stop, self._handles[family])


def behind(prefix: bytes) -> bytes:
    """A key above all keys with a prefix, and below or at all greater ones."""
    number = int.from_bytes(prefix, "big") + 1
    if number >> (8 * len(prefix)):
        return prefix + b"\xff" * 32  # nothing sorts behind such a prefix but its own keys, and those are short
    return number.to_bytes(len(prefix), "big")


def _of_database(buffers: WriteBufferManager) -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    options.set_write_buffer_manager(buffers)
    options.set_max_background_jobs(2)
    options.set_max_total_wal_size(128 * MIB)
    options.set_keep_log_file_num(4)
    options.set_max_log_file_size(8 * MIB)
    options.set_max_manifest_file_size(16 * MIB)
    options.set_is_fd_close_on_exec(True)
    options.set_skip_stats_update_on_db_open(True)
    return options


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turns what RocksDB raises into a StoreError that names the database."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        raise StoreError(_explained(path, error)) from error


def _explained(path: Path, error: BaseException) -> str:
    text = str(error)
    if "lock" in text.lower() and ("LOCK" in text or "No locks" in text or "temporarily unavailable" in text):
        return f"{path} is in use by another process ({text}); stop that one, or give this one another data_dir"
    if "Corruption" in text or "checksum" in text:
        return f"{path} is damaged ({text}); restore a backup into data_dir, or move the directory away to start anew"
    if "No space left" in text:
        return f"{path}: the disk is full ({text}); make room, the store opens again by itself"
    return f"{path}: {text}"
