"""Copies of the whole store, and the way back, on which whoever was erased since is erased again."""

import json
import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from nextact_server.storage.rocks_database import Database
from nextact_server.storage.rocks_erasure import ErasureLog
from nextact_server.storage.rocks_keys import sync_directory
from nextact_server.storage.rocks_segments import Forgotten
from nextact_server.storage.seam import StoreError

DATABASE, SECRET, ERASURES = "store", "store.key", "erasures.log"
"""What a data directory, and a backup, holds: the database, the secret of its keys, the log of erasures."""
_NOTE = "backup.json"
_PENDING = "restored.json"
"""Lies in a data directory until the erasures that a restored backup does not know of have been carried out."""


def backup(
    database: Database, log: ErasureLog, data_dir: Path, target: Path, *, still: AbstractContextManager[Any]
) -> None:
    """Copies the store of a data directory to a directory that does not exist; by hard links on the same file system.

    Args:
        database: it.
        log: its log of erasures.
        data_dir: where both lie.
        target: the backup.
        still: while it is held, no erasure is between the log and the database.

    Raises:
        StoreError: the target is there already, or cannot be written.
    """
    if target.exists():
        raise StoreError(f"{target} is there already; a backup goes to a directory that does not exist")
    database.flush()
    try:
        target.mkdir(parents=True)
        with still:
            database.checkpoint(target / DATABASE)
            known = sum(1 for _ in log.read())
        for name in (SECRET, ERASURES):
            if (data_dir / name).exists():
                shutil.copy2(data_dir / name, target / name)
        (target / _NOTE).write_text(json.dumps({"erasures": known}))
        sync_directory(target)
    except OSError as error:
        raise StoreError(f"{target}: the backup cannot be written: {error}") from error


def restore(source: Path, data_dir: Path) -> int:
    """Makes a data directory of a backup; returns how many erasures the next start will carry out again.

    The log of erasures that lies in the data directory is newer than the backup's and stays; where there is none, that
    of the backup is taken, and whoever was erased since the backup comes back: keep the log.

    Raises:
        StoreError: there is no backup, or a database is in the way, or its secret is another one.
    """
    if not (source / _NOTE).exists():
        raise StoreError(f"{source} is no backup: it has no {_NOTE}")
    if (data_dir / DATABASE).exists():
        raise StoreError(f"{data_dir / DATABASE} is in the way; move it elsewhere first")
    secret = data_dir / SECRET
    if secret.exists() and secret.read_bytes() != (source / SECRET).read_bytes():
        raise StoreError(f"{secret} is not the secret of the backup; move it elsewhere first")
    known = int(json.loads((source / _NOTE).read_text())["erasures"])
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        for name in (SECRET, ERASURES):
            if (source / name).exists() and not (data_dir / name).exists():
                shutil.copy2(source / name, data_dir / name)
        (data_dir / _PENDING).write_text(json.dumps({"erasures": known}))
        unfinished = data_dir / f"{DATABASE}.restoring"
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(source / DATABASE, unfinished)
        unfinished.rename(data_dir / DATABASE)
        sync_directory(data_dir)
    except OSError as error:
        raise StoreError(f"{data_dir}: the backup cannot be restored: {error}") from error
    return len(erasures_to_repeat(data_dir))


def erasures_to_repeat(data_dir: Path) -> list[Forgotten]:
    """Users who were erased after the backup that was restored here was made; none where none was restored."""
    note = data_dir / _PENDING
    if not note.exists():
        return []
    known = int(json.loads(note.read_text())["erasures"])
    return [logged.who for logged in ErasureLog(data_dir / ERASURES).read()][known:]


def erasures_repeated(data_dir: Path) -> None:
    """Notes that they are carried out."""
    (data_dir / _PENDING).unlink(missing_ok=True)
