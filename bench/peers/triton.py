"""The real Triton server as nvidia-pytriton's wheel carries it: with its python backend, on the CPU."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.peers.environment import HOME, free_ports, running, wait_until_ready, why_not_installed

__all__ = ["serve_triton", "why_no_triton"]

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
ENVIRONMENT = HOME / "triton"
PACKAGES = ENVIRONMENT / "lib" / f"python{VERSION}" / "site-packages"
TRITON = PACKAGES / "pytriton" / "tritonserver"
STUB = TRITON / "python_backend_stubs" / VERSION / "triton_python_backend_stub"


def why_no_triton() -> str:
    """Why the real Triton cannot run here; empty if it can."""
    if reason := why_not_installed("triton"):
        return reason
    return "" if STUB.exists() else f"this Triton has no python backend for Python {VERSION}"


@contextmanager
def serve_triton(repository: Path, log: Path, *flags: str) -> Iterator[str]:
    """Runs Triton on a repository of python models; the address of its gRPC port."""
    stub = TRITON / "backends" / "python" / STUB.name
    if not stub.exists():
        shutil.copy(STUB, stub)
    http, grpc, metrics = free_ports(3)
    command = [
        str(TRITON / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={TRITON / 'backends'}",
        f"--cache-directory={TRITON / 'caches'}",
        "--http-address=127.0.0.1",
        f"--http-port={http}",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={grpc}",
        "--metrics-address=127.0.0.1",
        f"--metrics-port={metrics}",
        "--allow-gpu-metrics=false",
        f"--backend-config=python,shm-region-prefix-name=nextact{grpc}",
        *flags,
    ]
    asked = [ENVIRONMENT / "bin" / "python", "-c", "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"]
    libraries = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
    environment = {
        # The stub looks for its packages beside the first `python3` of PATH, and nowhere else.
        "PATH": f"{ENVIRONMENT / 'bin'}:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": f"{libraries}:{PACKAGES / 'nvidia_pytriton.libs'}",
        "PYTHONPATH": str(PACKAGES),
    }
    with running(command, log, environment):
        address = f"127.0.0.1:{grpc}"
        wait_until_ready(address, log)
        yield address
