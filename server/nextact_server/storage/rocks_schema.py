"""The version of the layout on disk, its migrations, and the single numbers that the database keeps."""

import struct
from collections.abc import Callable, Mapping

from nextact_server.storage.rocks_database import META, SEGMENTS, Database
from nextact_server.storage.seam import StoreError

SCHEMA = 1
"""Version that this code reads and writes."""
VERSION = b"schema"
NEXT_NUMBER = b"next-number"
"""Number that the next event gets, as of the last compaction; segments that are there begin at or above it."""
DIMENSION = b"content-dimension"
PURGE = b"purge/"
"""Stands before the keys of users who were erased and whose bytes may still be in files; the value is when (us)."""
_NUMBER = struct.Struct(">q")

Migration = Callable[[Database], None]
MIGRATIONS: Mapping[int, Migration] = {}
"""From a version to the next: changes everything such that it may be begun again after a crash."""


def number_to_bytes(number: int) -> bytes:
    """As `read_number` reads it."""
    return _NUMBER.pack(number)


def number_from_bytes(raw: bytes) -> int:
    """Reads what `number_to_bytes` wrote."""
    return int(_NUMBER.unpack(raw)[0])


def read_number(database: Database, key: bytes, otherwise: int = 0) -> int:
    """A number of the database."""
    raw = database.get(META, key)
    return otherwise if raw is None else number_from_bytes(raw)


def bring_up_to_date(
    database: Database, schema: int = SCHEMA, migrations: Mapping[int, Migration] = MIGRATIONS
) -> None:
    """Marks a new database with the schema, or brings an older one to it, step by step.

    Raises:
        StoreError: the database is of a newer schema, or no way leads from its own to this one.
    """
    found = read_number(database, VERSION)
    if not found:
        if next(database.scan(SEGMENTS), None) is not None:
            raise StoreError(f"{database.path} holds events but no schema version; restore a backup")
        _mark(database, schema)
        return
    if found > schema:
        raise StoreError(
            f"{database.path} has schema {found}, this server knows schemas up to {schema}; run a newer nextact-server"
        )
    for version in range(found, schema):
        if version not in migrations:
            raise StoreError(f"{database.path} has schema {found}; no migration leads from {version} to {version + 1}")
        migrations[version](database)
        _mark(database, version + 1)


def _mark(database: Database, version: int) -> None:
    batch = database.batch()
    batch.put(META, VERSION, number_to_bytes(version))
    database.write(batch, sync=True)
