"""h2load, where it is installed: a load client in C. It sends the same bytes in every call."""

import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

__all__ = ["calls_per_second", "is_installed"]

RATE = re.compile(r"finished in [\d.]+\w+, ([\d.]+) req/s")
FAILED = re.compile(r"requests: .* (\d+) failed, (\d+) errored, (\d+) timeout")


def is_installed() -> bool:
    """Whether h2load can be run."""
    return shutil.which("h2load") is not None


def calls_per_second(
    target: str, path: str, message: bytes, concurrency: int, calls: int, within: Sequence[str] = ()
) -> float:
    """Rate of one closed loop of `calls` calls over one connection, by h2load's own clock.

    `within`: a command that runs it elsewhere, such as in the network of the server. It counts HTTP 200 as success,
    whatever the gRPC status. Raises RuntimeError if any call failed even so.
    """
    with tempfile.TemporaryDirectory(prefix="nextact-h2load-") as directory:
        frame = Path(directory) / "frame"
        frame.write_bytes(struct.pack(">BL", 0, len(message)) + message)
        command = [*within, "h2load", "-c", "1", "-t", "1", "-m", str(concurrency), "-n", str(calls), "-d", str(frame)]
        command += ["-H", "content-type: application/grpc", "-H", "te: trailers", f"http://{target}{path}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    rate, failed = RATE.search(done.stdout), FAILED.search(done.stdout)
    if rate is None or failed is None or any(int(count) for count in failed.groups()):
        raise RuntimeError(f"h2load against {target}: {done.stdout[-500:]}{done.stderr[-500:]}")
    return float(rate.group(1))
