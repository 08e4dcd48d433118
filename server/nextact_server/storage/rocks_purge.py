"""The end of erased bytes: what was deleted is rewritten out of every file of the database."""

from nextact_server.storage.rocks_database import (
    CONTENT,
    HISTORY,
    MESSAGES,
    META,
    REFERENCES,
    SEGMENTS,
    STATES,
    USERS,
    Database,
    behind,
)
from nextact_server.storage.rocks_schema import PURGE, number_from_bytes

_BY_USER = (HISTORY, USERS, STATES)
_SCATTERED = (MESSAGES, CONTENT, REFERENCES, SEGMENTS, META)
"""Their keys say nothing of the user, so that all their files are rewritten."""


def marked_users(database: Database) -> dict[bytes, int]:
    """Users whose bytes may still be in files, and when they were erased, in microseconds."""
    return {key[len(PURGE) :]: number_from_bytes(value) for key, value in database.scan(META, PURGE)}


def purge(database: Database, users: list[bytes]) -> None:
    """Rewrites the files that may hold something of users whose rows are deleted; may take long.

    The log goes with the flush, deleted rows and what they covered go with the compaction down to the last level.
    RocksDB deletes the old files when the last reader of them is done.
    """
    database.flush()
    for family in _BY_USER:
        for user in users:
            database.compact(family, user, behind(user))
    for family in _SCATTERED:
        database.compact(family)
    batch = database.batch()
    for user in users:
        batch.delete(META, PURGE + user)
    database.write(batch, sync=True)
