"""A nextact server as a child process that never outlives the demo."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

_SERVING = re.compile(r"SERVING grpc=(\S+) metrics=(\S+)")
_STOP_S = 20.0
_LOG_LINES = 15


class ServerFailed(RuntimeError):
    """The server ended, or did not start in time; the message holds the end of its log."""


class ServerProcess:
    """Runs `nextact-server serve` on free ports. A context manager: on leaving, the process is gone.

    Args:
        root: the directory that the server runs in; relative paths in its settings start there.
        log: the file that its log goes to.
        arguments: more settings, as flags.
    """

    def __init__(self, root: Path, log: Path, arguments: Sequence[str] = ()) -> None:
        self._root = root
        self._log = log
        self._arguments = arguments
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        command = [str(Path(sys.executable).with_name("nextact-server")), "serve", "--grpc-port", "0"]
        command += ["--metrics-port", "0", *self._arguments]
        with self._log.open("wb") as log:
            # In a session of its own: Ctrl-C reaches the demo alone, which then stops the server in order.
            self._process = subprocess.Popen(
                command, cwd=self._root, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
            )
        assert self._process.stdout is not None
        threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def addresses(self, timeout_s: float) -> tuple[str, str]:
        """Waits until the server says that it is SERVING, and returns its gRPC and metrics addresses.

        Raises:
            ServerFailed: it ended, or said nothing within `timeout_s`.
        """
        end = time.monotonic() + timeout_s
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                raise ServerFailed(f"the server was not SERVING within {timeout_s:.0f} s; {self._tail()}") from None
            if line is None:
                raise ServerFailed(f"the server ended with {self._process.wait()} before it served; {self._tail()}")
            if found := _SERVING.search(line):
                return found[1], found[2]

    def _read(self, stdout: IO[str]) -> None:
        with stdout:
            for line in stdout:
                self._lines.put(line)
        self._lines.put(None)

    def _tail(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
        return f"the end of {self._log}:\n" + "\n".join(lines)
