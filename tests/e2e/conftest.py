"""Whole programs, started as a person would start them."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples"))  # where the demo keeps its parts

from demo.server_process import ServerProcess  # noqa: E402

START_S = 240.0


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's root."""
    return ROOT


@pytest.fixture(scope="session")
def shipped_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The gRPC and metrics addresses of `nextact-server serve` with the shipped models."""
    log = tmp_path_factory.mktemp("server") / "server.log"
    with ServerProcess(ROOT, log, ["--data-dir", "build"]) as process:
        yield process.addresses(START_S)
