"""Processes and environments of peers."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

__all__ = ["HOME", "ROOT", "free_ports", "running", "wait_until_ready", "why_not_installed"]

ROOT = Path(__file__).resolve().parents[2]
HOME = Path(os.environ.get("NEXTACT_PEERS", ROOT / ".peers"))
"""A folder per peer, made by `make peers`: a virtual environment, or failed.txt with the reason."""


def why_not_installed(name: str) -> str:
    """Why a peer cannot run here; empty if its environment is there."""
    note = HOME / name / "failed.txt"
    if note.exists():
        return f"{name} could not be installed: {note.read_text().strip()[-500:]}"
    return "" if (HOME / name / "installed").exists() else f"{name} is not installed; `make peers` installs it"


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listened on a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextmanager
def running(command: list[str], log: Path, environment: Mapping[str, str] | None = None) -> Iterator[int]:
    """A process and its children for the length of a `with`, told to end by SIGTERM; its id."""
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command,
            env={**os.environ, **(environment or {})},
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until_ready(address: str, log: Path, seconds: float = 90, ready: str = "") -> None:
    """Returns once the server, or with `ready` that model, says that it is ready. Raises TimeoutError."""
    end = time.monotonic() + seconds
    with grpcclient.InferenceServerClient(address) as client:
        ask: Callable[[], bool] = (
            (lambda: client.is_model_ready(ready, client_timeout=1))
            if ready
            else (lambda: client.is_server_ready(client_timeout=1))
        )
        while time.monotonic() < end:
            try:
                if ask():
                    return
            except InferenceServerException:
                pass
            time.sleep(0.1)
    raise TimeoutError(f"{address} was not ready within {seconds} s:\n{log.read_text(errors='replace')[-3000:]}")
