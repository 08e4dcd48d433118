"""The processes that a benchmark starts: servers and workers. Each is ended, whatever happens."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from nextact import Client, Item

__all__ = [
    "ROOT",
    "Served",
    "Worker",
    "cpu_seconds",
    "nextact_server",
    "register",
    "resident_bytes",
    "worker",
]

ROOT = Path(__file__).resolve().parent.parent
CONVERTED = ROOT / "build" / "converted"
STOP_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Served:
    """A running nextact server: its addresses, its process, and how long it took from start to SERVING."""

    grpc: str
    metrics: str
    pid: int
    start_seconds: float


class Worker:
    """A process of the benchmark's own that takes one JSON line per order and answers with one."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.pid = process.pid

    def ask(self, **order: Any) -> dict[str, Any]:
        """Sends an order and waits for its answer. Raises RuntimeError if the worker failed."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self.read()

    def read(self) -> dict[str, Any]:
        """The worker's next line."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{self._process.args!r}: {answer['error']}")
        return answer


@contextmanager
def worker(module: str, *arguments: str) -> Iterator[Worker]:
    """Runs `python -m bench.<module>` as a worker."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"bench.{module}", *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Worker(process)
    finally:
        _end(process)


@contextmanager
def nextact_server(repository: Path, settings: Mapping[str, str] | None = None) -> Iterator[Served]:
    """Runs `nextact-server serve` on free ports with a data directory of its own, converted models being shared."""
    with tempfile.TemporaryDirectory(prefix="nextact-bench-") as data:
        CONVERTED.mkdir(parents=True, exist_ok=True)
        (Path(data) / "converted").symlink_to(CONVERTED)
        flags = {
            "grpc-port": "0",
            "metrics-port": "0",
            "data-dir": data,
            "model-repository": str(repository),
            **(settings or {}),
        }
        command = [str(Path(sys.executable).parent / "nextact-server"), "serve"]
        command += [f"--{name}={value}" for name, value in flags.items()]
        with tempfile.TemporaryFile("w+") as log:
            started = time.perf_counter()
            process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                if "SERVING" not in line:
                    process.wait(STOP_SECONDS)
                    log.seek(0)
                    raise RuntimeError(f"the server did not start: {line}{log.read()[-2000:]}")
                addresses = dict(part.split("=", 1) for part in line.split() if "=" in part)
                _wait_until_serving(addresses["grpc"])
                yield Served(addresses["grpc"], addresses["metrics"], process.pid, time.perf_counter() - started)
            finally:
                _end(process)


def _wait_until_serving(target: str, seconds: float = 60.0) -> None:
    """Returns once the server's health is SERVING. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    with grpc.insecure_channel(target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while time.monotonic() < deadline:
            try:
                answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=5, wait_for_ready=True)
            except grpc.RpcError:
                continue
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return
    raise TimeoutError(f"{target} was not SERVING within {seconds} s")


def register(target: str, items: Mapping[str, str]) -> None:
    """Puts items (id and text) into a server's catalogue."""
    with Client(target) as client:
        client.upsert_items([Item(item_id=item_id, text=text) for item_id, text in items.items()], timeout=300)


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used, in user and kernel mode."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(psutil.Process(pid).memory_info().rss)


def _end(process: "subprocess.Popen[str]") -> None:
    if process.stdin is not None and not process.stdin.closed:
        process.stdin.close()
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()
