"""The server as a process of its own: one line when it serves, a drain on SIGTERM, one readable line when it cannot."""

import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from support.event_makers import event, new_name, predict, rows_message
from support.open_stream import OpenStream
from support.refusals import refusal_of
from support.server_process import LIMIT, command, process
from support.serving import connect

from nextact.v1.behavior_pb2_grpc import BehaviorServiceStub


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_drains_and_exits_with_zero_after_one_line(
    transport: str, tiny_repository: Path, data_dir: Path, number: signal.Signals
) -> None:
    if number == signal.SIGINT and transport == "grpcio":
        pytest.skip("both signals take one way, which SIGTERM shows on grpcio")
    with process(tiny_repository, data_dir, f"--grpc-server={transport}") as (running, address):
        with connect(address) as channel:
            BehaviorServiceStub(channel).Predict(predict([event(new_name())]), timeout=LIMIT)
            stream = OpenStream(channel, timeout=LIMIT).send(rows_message(1, [event(new_name(), text="hello")]))
            assert stream.receive().accepted == 1
            running.send_signal(number)
            acknowledged, error = stream.failure()
            assert acknowledged == []
            assert refusal_of(error).code == grpc.StatusCode.UNAVAILABLE
        out, err = running.communicate(timeout=LIMIT)
        assert running.returncode == 0, err
        assert out == ""
        assert "Traceback" not in err


def failing(repository: Path, data_dir: Path, *flags: str) -> tuple[int, str]:
    done = subprocess.run(
        command(repository, data_dir, *flags), capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.stdout == ""
    assert "Traceback" not in done.stderr, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("nextact-server:")]
    assert len(lines) == 1, done.stderr
    return done.returncode, lines[0]


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield int(holder.getsockname()[1])


@pytest.mark.parametrize("flag", ["--grpc-port", "--metrics-port"])
def test_a_port_that_is_taken_is_one_readable_line(
    transport: str, tiny_repository: Path, data_dir: Path, taken: int, flag: str
) -> None:
    if transport == "grpcio" and flag == "--metrics-port":
        pytest.skip("the metrics port is the same on both transports")
    code, line = failing(tiny_repository, data_dir, f"{flag}={taken}", f"--grpc-server={transport}")
    assert code == 1
    assert str(taken) in line


def broken(repository: Path, folder: Path) -> Path:
    copy = folder / "models"
    shutil.copytree(repository, copy, symlinks=True)
    return copy


def test_broken_weights_are_one_readable_line_that_names_the_file(
    tiny_repository: Path, data_dir: Path, tmp_path: Path
) -> None:
    repository = broken(tiny_repository, tmp_path)
    weights = repository / "next_action" / "1" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    code, line = failing(repository, data_dir)
    assert code == 1
    assert "model.safetensors" in line


def test_a_repository_that_is_not_there_is_one_readable_line(data_dir: Path, tmp_path: Path) -> None:
    code, line = failing(tmp_path / "nowhere", data_dir)
    assert code == 1
    assert "nowhere" in line


def test_a_setting_out_of_range_is_one_readable_line_that_names_it(tiny_repository: Path, data_dir: Path) -> None:
    code, line = failing(tiny_repository, data_dir, "--batch-events=0")
    assert code == 2
    assert "batch_events" in line
