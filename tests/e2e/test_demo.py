"""`make demo`, on a few people: it ends well, or says why, and leaves nothing behind."""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

_MARK = "NEXTACT_DEMO_TEST_MARK"


@pytest.fixture
def environment() -> dict[str, str]:
    """An environment that marks the demo and all that it starts."""
    return {**os.environ, "NEXTACT_DATA_DIR": "build", "_" + _MARK: uuid.uuid4().hex, "COLUMNS": "140"}


def left_behind(environment: Mapping[str, str]) -> list[str]:
    """The command lines of the processes that still carry the mark."""
    mark = environment["_" + _MARK]
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("_" + _MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def command(*words: str) -> list[str]:
    return [sys.executable, "examples/demo.py", *words]


def test_the_demo_ends_with_its_figures_and_leaves_no_process(root: Path, environment: dict[str, str]) -> None:
    run = subprocess.run(
        command("--users", "2", "--watch", "0.2"),
        cwd=root,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=280,
    )

    assert run.returncode == 0, run.stdout + run.stderr
    for figure in ("HR@10", "NDCG@10", "next-action accuracy", "p99", "events/s", "content cache", "batches of"):
        assert figure in run.stdout
    assert left_behind(environment) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_demo_that_is_stopped_takes_its_server_along(
    root: Path, environment: dict[str, str], number: signal.Signals, code: int
) -> None:
    with subprocess.Popen(
        command("--users", "1"), cwd=root, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert "SERVING" in process.stdout.readline()
        assert any("nextact-server" in line for line in left_behind(environment))
        process.send_signal(number)
        process.communicate(timeout=60)

    assert process.returncode == code
    assert left_behind(environment) == []


def test_a_server_that_cannot_start_is_told_in_words(root: Path, environment: dict[str, str], tmp_path: Path) -> None:
    run = subprocess.run(
        command("--users", "1", "--model-repository", str(tmp_path)),
        cwd=root,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert run.returncode == 1
    assert "the server ended with 1" in run.stdout
    assert "Traceback" not in run.stdout + run.stderr
    assert left_behind(environment) == []
