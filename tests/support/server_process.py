"""The server as a process of its own."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LIMIT = 120
"""Seconds that a process may take at most, on a machine that is busy with other things."""


def command(repository: Path, data_dir: Path, *flags: str) -> list[str]:
    """The line that starts a server on free ports."""
    program = Path(sys.executable).with_name("nextact-server")
    return [
        str(program), "serve", "--grpc-port=0", "--metrics-port=0", f"--model-repository={repository}",
        f"--data-dir={data_dir}", "--drain-seconds=20", *flags,
    ]  # fmt: skip


@contextmanager
def process(repository: Path, data_dir: Path, *flags: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A serving process and its address; it is killed where a test left it running."""
    running = subprocess.Popen(
        command(repository, data_dir, *flags),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert running.stdout is not None
        line = running.stdout.readline()
        found = re.search(r"SERVING grpc=(\S+) metrics=(\S+)", line)
        assert found, f"{line!r} {running.communicate(timeout=LIMIT)}"
        yield running, found.group(1)
    finally:
        if running.poll() is None:
            running.kill()
        running.communicate(timeout=LIMIT)
