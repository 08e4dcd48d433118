"""System shared memory: an object of /dev/shm that a process on the same machine made with `shm_open`.

It is read and written through its file, one copy each way, and never mapped. A mapping would save that copy, but its
owner may cut the object short at any moment, and touching a mapped page that is gone kills this process (SIGBUS);
whoever looked before would still lose the race. Reading the file cannot fail worse than with fewer bytes than asked.
"""

import contextlib
import mmap
import os
import stat
import weakref
from pathlib import PurePosixPath

import numpy as np

from nextact_server.inference.infer_errors import InferError, internal, invalid_argument

__all__ = ["SystemMemory"]

DIRECTORY = "/dev/shm"
BUFFERS_AT_ONCE = 512
"""Fewer than IOV_MAX, the most buffers that one call takes."""


class SystemMemory:
    """Part of a shared memory object, open as long as somebody holds this."""

    def __init__(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Open the object `key` for the region `name`.

        Raises:
            InferError: INTERNAL: it cannot be opened, or is no memory; INVALID_ARGUMENT: the part is not within it, is
                empty, or does not begin at a page (Triton maps it, so a portable caller cannot ask for that).
        """
        self.key = key
        self.offset = offset
        self.byte_size = byte_size
        self._file = _open(key)
        close = weakref.finalize(self, os.close, self._file)
        try:
            self._check(f"failed to register shared memory region '{name}': ")
        except InferError:
            close()  # now, and not when the error's traceback is let go
            raise

    def read(self, offset: int, byte_size: int) -> memoryview:
        """A copy of some bytes; the caller has checked that they are within the region."""
        view = np.empty(byte_size, np.uint8).data
        done = 0
        while done < byte_size:
            count = os.preadv(self._file, [view[done:]], self.offset + offset + done)
            if count == 0:
                raise self._cut_short()
            done += count
        return view

    def write(self, offset: int, views: list[memoryview]) -> None:
        """Put flat views one behind the other; the caller has checked that they fit."""
        pending = views
        at = self.offset + offset
        # A write past the end would make the object longer again, and that is not ours to do.
        if at + sum(view.nbytes for view in pending) > os.fstat(self._file).st_size:
            raise self._cut_short()
        while pending:
            try:
                count = os.pwritev(self._file, pending[:BUFFERS_AT_ONCE], at)
            except OSError as error:
                raise internal(f"cannot write to shared memory region '{self.key}': {error.strerror}") from error
            at += count
            pending = _behind(pending, count)

    def _check(self, refused: str) -> None:
        if self.offset + self.byte_size > os.fstat(self._file).st_size:
            raise invalid_argument(refused + "invalid args")
        if self.byte_size == 0 or self.offset % mmap.PAGESIZE:
            raise invalid_argument(refused + "unable to process address spaceInvalid argument")

    def _cut_short(self) -> InferError:
        return invalid_argument(f"Invalid shared memory region: '{self.key}': it became smaller than it was registered")


def _open(key: str) -> int:
    """The file of a shared memory object. As with `shm_open` the key is one name, with or without slashes in front."""
    name = key.lstrip("/")
    if name and name not in (".", "..") and "/" not in name and "\0" not in name:
        # A link could lead out of the directory; a pipe would block whoever opens it.
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        with contextlib.suppress(OSError, UnicodeEncodeError):
            file = os.open(PurePosixPath(DIRECTORY, name), flags)
            if stat.S_ISREG(os.fstat(file).st_mode):
                return file
            os.close(file)
    raise internal(f"Unable to open shared memory region: '{key}'")


def _behind(views: list[memoryview], count: int) -> list[memoryview]:
    """What is left of the buffers behind their first `count` bytes."""
    for number, view in enumerate(views):
        if count < view.nbytes:
            return [view[count:], *views[number + 1 :]]
        count -= view.nbytes
    return []
