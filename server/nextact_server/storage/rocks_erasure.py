"""The log of erasures, kept beside the database so that a restored backup can be told whom to forget again."""

import json
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nextact_server.storage.rocks_keys import sync_directory
from nextact_server.storage.rocks_segments import Forgotten
from nextact_server.storage.seam import StoreError


@dataclass(frozen=True, slots=True)
class Logged:
    """One erasure."""

    at_us: int
    who: Forgotten


class ErasureLog:
    """A file of lines, one per erasure: when, the user's key on disk, whether later events are refused.

    An erasure is logged before it is committed: one that was logged and then failed is asked for again, or is carried
    out when a backup is restored, which is what was asked for.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    def append(self, erasures: Sequence[Forgotten], at_us: int) -> None:
        """Adds erasures; on disk when this returns. Raises StoreError."""
        lines = "".join(
            json.dumps({"at_us": at_us, "user": one.user.hex(), "suppress": one.suppress}) + "\n" for one in erasures
        )
        try:
            with self._lock:
                is_new = not self.path.exists()
                with self.path.open("ab+") as file:
                    if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
                        file.write(b"\n")  # a crash cut the line before
                    file.write(lines.encode())
                    file.flush()
                    os.fsync(file.fileno())
                if is_new:
                    self.path.chmod(0o600)
                    sync_directory(self.path.parent)
        except OSError as error:
            raise StoreError(f"{self.path}: the erasure cannot be logged: {error}") from error

    def read(self) -> Iterator[Logged]:
        """All erasures, oldest first; a line that was cut off by a crash is left out: it was not answered."""
        if not self.path.exists():
            return
        for line in self.path.read_text().splitlines():
            try:
                told = json.loads(line)
                yield Logged(int(told["at_us"]), Forgotten(bytes.fromhex(told["user"]), bool(told["suppress"])))
            except (ValueError, KeyError, TypeError):
                continue
