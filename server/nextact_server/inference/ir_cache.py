"""Converted models on disk: an entry is whole or it is made again."""

import fcntl
import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["IrCache", "IrCacheError", "digest_file"]

logger = logging.getLogger(__name__)

SUMS_FILE = "sums.json"


class IrCacheError(OSError):
    """The cache directory cannot be used."""


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class IrCache:
    """Directories `<name>-<key>` under one root, each holding what a conversion wrote and the checksums of it.

    An entry appears by one rename, so a process that dies while converting leaves none; one whose checksums do not
    match (a torn write after a power loss, a bad disk, an edit) is thrown away and converted again. Processes that
    share a directory convert once: a lock file per entry keeps the others waiting.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def get(self, name: str, key: str, convert: Callable[[Path], None]) -> Path:
        """Return the directory of the entry, made by `convert` (which writes into the directory it is given) if needed.

        `key` must name everything the result depends on: the weights, the code's version, the converter's version.

        Raises:
            IrCacheError: the root cannot be written.
            Exception: whatever `convert` raises; nothing is kept then.
        """
        entry = self._root / f"{name}-{key}"
        if _is_whole(entry):
            return entry
        with self._locked(entry.name):
            if not _is_whole(entry):  # else another process made it meanwhile
                self._make(entry, convert)
        return entry

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            lock = (self._root / f".{name}.lock").open("w")
        except OSError as error:
            raise IrCacheError(f"{self._root}: cannot keep converted models here: {error.strerror}") from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _make(self, entry: Path, convert: Callable[[Path], None]) -> None:
        for left_over in self._root.glob(f".{entry.name}.new-*"):  # by a process that died: the lock is ours
            shutil.rmtree(left_over, ignore_errors=True)
        if entry.exists():
            logger.warning("converted model %s is damaged; converting again", entry)
            shutil.rmtree(entry)
        building = Path(tempfile.mkdtemp(prefix=f".{entry.name}.new-", dir=self._root))
        try:
            convert(building)
            sums = {file.name: digest_file(file) for file in sorted(building.iterdir())}
            (building / SUMS_FILE).write_text(json.dumps(sums), encoding="utf-8")
            building.rename(entry)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise


def _is_whole(entry: Path) -> bool:
    try:
        sums = json.loads((entry / SUMS_FILE).read_text(encoding="utf-8"))
        return bool(sums) and all(digest_file(entry / name) == digest for name, digest in sums.items())
    except (OSError, ValueError, AttributeError):
        return False
