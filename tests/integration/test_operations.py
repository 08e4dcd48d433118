"""What an operator relies on: health, reflection, metrics, TLS, a drain that loses nothing, memory that comes back."""

import ctypes
import gc
import shutil
import socket
import subprocess
import tempfile
import threading
import urllib.request
from pathlib import Path
from unittest.mock import Mock

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from support.event_makers import arrow_message, event, new_name, predict, rows_message
from support.gated_content import Gate, gated_encoder
from support.open_stream import OpenStream
from support.pictures import bomb, picture, truncated
from support.refusals import refusal_of, refused
from support.serving import PATIENCE, AppWithContent, LoopThread, Serving, StartServer, connect, settings_for

from nextact.v1 import behavior_pb2 as pb
from nextact.v1.behavior_pb2_grpc import BehaviorServiceStub

SERVICE = "nextact.v1.BehaviorService"
SERVING, NOT_SERVING = (getattr(health_pb2.HealthCheckResponse, name) for name in ("SERVING", "NOT_SERVING"))


@pytest.mark.parametrize("service", ["", SERVICE])
def test_health_says_serving(server: Serving, service: str) -> None:
    health = health_pb2_grpc.HealthStub(server.channel)
    request = health_pb2.HealthCheckRequest(service=service)
    assert health.Check(request).status == SERVING
    watch = health.Watch(request, timeout=PATIENCE)
    assert next(watch).status == SERVING
    watch.cancel()


def test_health_of_an_unknown_service_is_not_found(server: Serving) -> None:
    health = health_pb2_grpc.HealthStub(server.channel)
    assert refused(lambda: health.Check(health_pb2.HealthCheckRequest(service="x"))).code.name == "NOT_FOUND"


def test_reflection_lists_the_services_and_describes_the_contract(server: Serving) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
    ]
    listed, described = stub.ServerReflectionInfo(iter(asked), timeout=PATIENCE)
    names = {service.name for service in listed.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health"} <= names
    assert described.file_descriptor_response.file_descriptor_proto


def test_reflection_can_be_left_out(start_server: StartServer) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(start_server(reflection=False).channel)
    asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
    assert refused(lambda: list(stub.ServerReflectionInfo(iter(asked)))).code.name == "UNIMPLEMENTED"


def test_metrics_tell_what_became_of_events(start_server: StartServer) -> None:
    server = start_server()
    user = new_name()
    one = event(user)
    server.stub.Predict(predict([one, one, event(user, action="")]))
    with urllib.request.urlopen(f"http://{server.metrics}/metrics", timeout=PATIENCE) as answer:
        text = answer.read().decode()
    lines = [line for line in text.splitlines() if line.startswith("nextact_")]
    assert lines
    for status in ("ACCEPTED", "DUPLICATE", "INVALID"):
        assert any(f'"{status}"' in line and line.endswith(" 1.0") for line in lines), status
    assert any("waiting_events" in line and line.endswith(" 0.0") for line in lines)


def test_a_drain_acknowledges_what_was_read_then_ends_streams_and_refuses_calls(
    start_server: StartServer, gate: Gate
) -> None:
    server = start_server()
    user = new_name()
    stream = OpenStream(server.channel).send(rows_message(1, [event(user)]))
    assert stream.receive().number == 1
    gate.close()
    stream.send(rows_message(2, [event(user, 1, text="slow")]))
    call = server.stub.Predict.future(predict([event(new_name(), text="slow too")]))
    gate.await_waiting(2)
    watch = health_pb2_grpc.HealthStub(server.channel).Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
    assert next(watch).status == SERVING
    stopped = server.begin_stop()
    assert next(watch).status == NOT_SERVING
    watch.cancel()
    assert refused(lambda: server.stub.Predict(predict([event(user)]))).code.name == "UNAVAILABLE"
    gate.open()
    assert call.result(PATIENCE).results[0].status == pb.EVENT_STATUS_ACCEPTED
    acknowledged, error = stream.failure()
    assert [answer.number for answer in acknowledged] == [2]
    assert refusal_of(error).code.name == "UNAVAILABLE"
    stopped.result(PATIENCE)


def test_an_idle_stream_does_not_hold_up_a_drain(start_server: StartServer) -> None:
    server = start_server()
    stream = OpenStream(server.channel).send(rows_message(1, [event(new_name())]))
    assert stream.receive().number == 1
    stopped = server.begin_stop()
    acknowledged, error = stream.failure()
    assert acknowledged == []
    assert refusal_of(error).code.name == "UNAVAILABLE"
    stopped.result(PATIENCE)


def test_a_drain_past_its_grace_tells_those_who_still_wait(
    start_server: StartServer, transport: str, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    if transport != "native":
        pytest.skip("grpcio ends its calls itself")
    server = start_server(drain_seconds=0.2)
    gate.close()
    item = pb.UpsertItemsRequest(items=[pb.Item(item_id=new_name("item"), text="slow as well")])
    waiting = [
        server.stub.Predict.future(predict([event(new_name(), text="slow")]), timeout=PATIENCE),
        server.stub.UpsertItems.future(item, timeout=PATIENCE),
    ]
    gate.await_waiting(2)
    server.begin_stop().result(PATIENCE)
    for call in waiting:
        refusal = refused(lambda call=call: call.result(PATIENCE))
        assert (refusal.code.name, refusal.message) == ("UNAVAILABLE", "the server is stopping")
    gate.open()
    gc.collect()
    assert [record for record in caplog.records if record.name in ("asyncio", "concurrent.futures")] == []


def free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1]), int(other.getsockname()[1])


def own_threads() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return sorted(name for name in names if name.startswith(("native-", "batch-")))


@pytest.mark.parametrize("broken", ["at its end", "by a taken port"])
def test_a_start_that_fails_leaves_nothing_behind_and_can_be_repeated(
    transport: str, loop: LoopThread, tiny_repository: Path, data_dir: Path, gate: Gate, broken: str
) -> None:
    grpc_port, metrics_port = free_ports()
    settings = settings_for(tiny_repository, data_dir, transport, grpc_port=grpc_port, metrics_port=metrics_port)
    app = AppWithContent(settings, None, gated_encoder(gate))
    before = own_threads(), set(Path(tempfile.gettempdir()).glob("nextact-*"))
    with socket.socket() as holder, pytest.MonkeyPatch.context() as patch:
        if broken == "at its end":
            patch.setattr(app._health, "set", Mock(side_effect=OSError("no more")))
        else:
            holder.bind(("127.0.0.1", grpc_port))
            holder.listen()
        for _ in range(2):
            with pytest.raises((OSError, RuntimeError)):
                loop.run(app.start())
            with pytest.raises(OSError, match="refused"):
                urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=PATIENCE)
    assert (own_threads(), set(Path(tempfile.gettempdir()).glob("nextact-*"))) == before
    address = loop.run(app.start()).grpc
    with connect(address) as channel:
        answer = BehaviorServiceStub(channel).Predict(predict([event(new_name())]), timeout=PATIENCE)
        assert answer.results[0].status == pb.EVENT_STATUS_ACCEPTED
    loop.run(app.stop())


def test_a_server_whose_start_failed_can_be_stopped(
    transport: str, loop: LoopThread, tiny_repository: Path, data_dir: Path, gate: Gate
) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        settings = settings_for(tiny_repository, data_dir, transport, metrics_port=holder.getsockname()[1])
        app = AppWithContent(settings, None, gated_encoder(gate))
        with pytest.raises(OSError, match="metrics_port"):
            loop.run(app.start())
        loop.run(app.stop())


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for localhost and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl program to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


def test_grpcio_serves_tls_to_those_who_trust_it_and_nobody_in_plain(
    start_server: StartServer, transport: str, certificate: tuple[Path, Path]
) -> None:
    if transport != "grpcio":
        pytest.skip("pygrpc-native has no TLS: grpc_server=grpcio serves it")
    server = start_server(tls_cert=certificate[0], tls_key=certificate[1])
    trusting = grpc.ssl_channel_credentials(certificate[0].read_bytes())
    with connect(server.target, trusting) as channel:
        answer = BehaviorServiceStub(channel).Predict(predict([event(new_name())]), timeout=PATIENCE)
        assert answer.results[0].status == pb.EVENT_STATUS_ACCEPTED
        (acknowledged,) = OpenStream(channel).send(rows_message(1, [event(new_name())])).rest()
        assert acknowledged.accepted == 1
    plain = refused(lambda: server.stub.Predict(predict([event(new_name())]), timeout=PATIENCE))
    assert plain.code.name == "UNAVAILABLE"


def test_tls_on_the_native_transport_is_refused_in_words(
    start_server: StartServer, transport: str, certificate: tuple[Path, Path]
) -> None:
    if transport != "native":
        pytest.skip("only the native transport has no TLS")
    with pytest.raises(ValueError, match="grpc_server"):
        start_server(tls_cert=certificate[0], tls_key=certificate[1])


@pytest.mark.parametrize("half", ["tls_cert", "tls_key"])
def test_half_of_tls_is_refused_in_words(start_server: StartServer, certificate: tuple[Path, Path], half: str) -> None:
    with pytest.raises(ValueError, match="tls_cert and tls_key"):
        start_server(**{half: certificate[0]})


def misuse(server: Serving) -> None:
    """Large and bad things of every kind."""
    events = [
        event(new_name(), image=truncated()),
        event(new_name(), image=bomb()),
        event(new_name(), text="x" * 70_000),
    ]
    server.stub.Predict(predict([*events, event(new_name(), image=picture() + bytes(2_000_000))]))
    server.stub.Embed(pb.EmbedRequest(contents=[pb.Content(image=bomb()), pb.Content(image=truncated())]))
    refused(lambda: server.raw("Predict", b"\x0a\xff\xff\xff\x7f" + bytes(1_000_000)))
    refused(lambda: server.raw("Predict", bytes(33 * 1024 * 1024)))
    OpenStream(server.channel).send(pb.StreamEventsRequest(number=1, arrow_ipc=bytes(4_000_000))).failure()
    leaving = OpenStream(server.channel).send(arrow_message(1, [event(new_name()) for _ in range(200)]))
    leaving.receive()
    leaving.cancel()
    gone = server.stub.Predict.future(predict([event(new_name())]))
    gone.cancel()


def give_back_freed_memory() -> None:
    """What the process holds then is what it uses: the C library keeps freed memory, how much is chance."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def test_memory_threads_and_files_come_back_after_misuse(server: Serving) -> None:
    process = psutil.Process()
    for _ in range(4):
        misuse(server)
    give_back_freed_memory()
    before = process.memory_info().rss, threading.active_count(), process.num_fds()
    for _ in range(12):
        misuse(server)
    server.stub.Predict(predict([event(new_name())]))
    give_back_freed_memory()
    after = process.memory_info().rss, threading.active_count(), process.num_fds()
    assert after[0] - before[0] < 150 * 1024 * 1024
    assert after[1] - before[1] <= 4
    assert after[2] - before[2] <= 8
