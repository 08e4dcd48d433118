"""Callers that go away, that never read, that come by the thousand; and a server that stops under them."""

import queue
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.event_makers import new_name
from support.kserve_calls import eventually, infer_request, load_request, loaded, outcome, pending, stub_of
from support.model_gates import Gate, gate
from support.server_process import LIMIT, process
from support.serving import PATIENCE, Serving, connect
from tritonclient.grpc import service_pb2 as pb

SLOW = """
from support.model_gates import gate
class TritonPythonModel:
    def initialize(self, args):
        self.gate = gate(args["model_name"])
    def execute(self, requests):
        self.gate.wait()
        inputs = [pb_utils.get_input_tensor_by_name(request, "IN").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", each)]) for each in inputs]
"""
FLOOD = """
from support.model_gates import gate
class TritonPythonModel:
    def initialize(self, args):
        self.gate = gate(args["model_name"])
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            count, size = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy().astype(int)
            response = pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.zeros(size, np.float32))])
            for number in range(count):
                if request.is_cancelled():
                    break
                sender.send(response)
                self.gate.seen.append(number)
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            self.gate.reached.set()
"""
DECOUPLED = {"model_transaction_policy": {"decoupled": True}}


@pytest.fixture
def slow(kserve: Serving) -> Iterator[tuple[str, Gate]]:
    """A model that answers nobody until its gate is opened."""
    name = f"slow_{new_name()}"
    with loaded(kserve, name, SLOW):
        yield name, gate(name)
        gate(name).open()


@contextmanager
def caller(kserve: Serving) -> Iterator[Any]:
    """A client of its own, which goes away at the end."""
    with connect(kserve.target) as channel:
        yield stub_of(channel)


def numbered(model: str, number: float) -> pb.ModelInferRequest:
    return infer_request(model, np.full(2, number, np.float32), id=str(number))


@contextmanager
def kept_open(*requests: pb.ModelInferRequest) -> Iterator[Iterator[pb.ModelInferRequest]]:
    """What a client sends on a stream, which it closes at the end of the `with`."""
    rest: queue.SimpleQueue[None] = queue.SimpleQueue()

    def messages() -> Iterator[pb.ModelInferRequest]:
        yield from requests
        rest.get()

    yield messages()
    rest.put(None)


@pytest.mark.parametrize("way", ["cancels", "closes"])
def test_a_hundred_calls_of_a_client_that_goes_away_leave_nothing(
    kserve: Serving, slow: tuple[str, Gate], way: str
) -> None:
    model, stops = slow
    with caller(kserve) as stub:
        calls = [stub.ModelInfer.future(numbered(model, number), timeout=60) for number in range(100)]
        eventually(lambda: pending(kserve, model) == 100)
        for call in calls if way == "cancels" else ():
            call.cancel()
    eventually(lambda: pending(kserve, model) == 1, "all but the one that runs are to leave")
    stops.open()
    eventually(lambda: pending(kserve, model) == 0)
    stats = stub_of(kserve.channel).ModelStatistics(pb.ModelStatisticsRequest(name=model)).model_stats[0]
    assert stats.execution_count <= 1


@pytest.mark.parametrize("way", ["cancels", "closes"])
def test_a_hundred_requests_of_a_stream_whose_client_goes_away_leave_nothing(
    kserve: Serving, slow: tuple[str, Gate], way: str
) -> None:
    model, stops = slow
    with caller(kserve) as stub, kept_open(*(numbered(model, number) for number in range(100))) as messages:
        call = stub.ModelStreamInfer(messages, timeout=60)
        eventually(lambda: pending(kserve, model) == 100)
        if way == "cancels":
            call.cancel()
            eventually(lambda: pending(kserve, model) == 1)
    eventually(lambda: pending(kserve, model) == 1, "all but the one that runs are to leave")
    stops.open()
    eventually(lambda: pending(kserve, model) == 0)


def test_ten_thousand_calls_are_all_answered_once_a_slow_model_comes_back(
    kserve: Serving, slow: tuple[str, Gate]
) -> None:
    model, stops = slow
    with caller(kserve) as stub:
        requests = [numbered(model, number) for number in range(100)]
        calls = [stub.ModelInfer.future(requests[number % 100], timeout=120) for number in range(10_000)]
        eventually(lambda: pending(kserve, model) >= 1000)
        assert outcome(lambda: stub_of(kserve.channel).ModelInfer(infer_request(), timeout=PATIENCE))[0] == "OK"
        stops.open()
        answers = Counter(outcome(call.result)[0] for call in calls)
    assert answers == {"OK": 10_000}
    assert pending(kserve, model) == 0


def test_more_than_the_queue_takes_is_refused_at_once_and_the_rest_is_answered(kserve: Serving, transport: str) -> None:
    policy = {"max_queue_size": 50}
    name = f"bounded_{transport}"
    stops = gate(name)
    with loaded(kserve, name, SLOW, dynamic_batching={"default_queue_policy": policy}), caller(kserve) as stub:
        calls = [stub.ModelInfer.future(numbered(name, number), timeout=60) for number in range(200)]
        eventually(lambda: sum(call.done() for call in calls) >= 149)
        done = [outcome(call.result) for call in calls if call.done()]
        assert {code for code, _ in done} == {"UNAVAILABLE"}
        assert all("Exceeds maximum queue size" in text for _, text in done)
        assert pending(kserve, name) <= 51
        stops.open()
        assert Counter(outcome(call.result)[0] for call in calls) == {"OK": 200 - len(done), "UNAVAILABLE": len(done)}


# Streams that do not read ---------------------------------------------------------------------------------------------


def test_a_stream_that_does_not_read_is_not_read_from(kserve: Serving) -> None:
    taken = 0
    request = infer_request("identity", np.zeros((32, 64), np.float32))

    def endless() -> Iterator[pb.ModelInferRequest]:
        nonlocal taken
        while taken < 1_000_000:
            taken += 1
            yield request

    def stands_still() -> bool:
        before = taken
        threading.Event().wait(0.2)
        return taken == before

    with caller(kserve) as stub:
        call = stub.ModelStreamInfer(endless(), timeout=60)
        eventually(stands_still)
        assert 0 < taken < 10_000
        assert next(call).infer_response.model_name == "identity"
        call.cancel()
    eventually(lambda: pending(kserve, "identity") == 0)


def test_a_model_that_floods_a_stream_waits_for_it_and_all_of_it_arrives(
    kserve: Serving, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nextact_server.rpc.kserve.stream.MAX_UNWRITTEN_BYTES", 1_000_000)
    name = f"flood_{transport}"
    with loaded(kserve, name, FLOOD, **DECOUPLED), caller(kserve) as stub:
        with kept_open(infer_request(name, np.array([400, 25_000], np.float32))) as messages:
            call = stub.ModelStreamInfer(messages, timeout=60)
            sizes = [len(next(call).infer_response.raw_output_contents[0]) for _ in range(400)]
            call.cancel()
        assert sizes == [100_000] * 400


def test_a_model_gives_up_a_stream_that_never_reads(
    kserve: Serving, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nextact_server.rpc.kserve.stream.MAX_UNWRITTEN_BYTES", 1_000_000)
    monkeypatch.setattr("nextact_server.rpc.kserve.stream.MAX_STALL_S", 0.2)
    name = f"given_up_{transport}"
    with loaded(kserve, name, FLOOD, **DECOUPLED), caller(kserve) as stub:
        with kept_open(infer_request(name, np.array([100_000, 25_000], np.float32))) as messages:
            call = stub.ModelStreamInfer(messages, timeout=60)
            assert gate(name).reached.wait(PATIENCE)
            assert len(gate(name).seen) < 1000
            code, text = outcome(lambda: list(call))
            assert (code, "read none of them" in text) == ("RESOURCE_EXHAUSTED", True)
        assert pending(kserve, name) == 0


def test_a_client_that_goes_away_while_it_is_written_to_stops_the_model(
    kserve: Serving, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nextact_server.rpc.kserve.stream.MAX_UNWRITTEN_BYTES", 1_000_000)
    monkeypatch.setattr("nextact_server.rpc.kserve.stream.MAX_STALL_S", 1000)
    name = f"left_{transport}"
    with loaded(kserve, name, FLOOD, **DECOUPLED), caller(kserve) as stub:
        with kept_open(infer_request(name, np.array([100_000, 25_000], np.float32))) as messages:
            call = stub.ModelStreamInfer(messages, timeout=60)
            next(call)
            eventually(lambda: len(gate(name).seen) > 10)
            call.cancel()
        assert gate(name).reached.wait(PATIENCE)
        eventually(lambda: pending(kserve, name) == 0)


# A server that stops --------------------------------------------------------------------------------------------------


def test_what_is_in_flight_when_a_server_drains_is_answered_in_time_or_told_so(
    start_kserve: Any, transport: str
) -> None:
    server: Serving = start_kserve(drain_seconds=0.5)
    stub = stub_of(server.channel)
    names = [f"draining_{transport}_{number}" for number in range(2)]
    for name in names:
        stub.RepositoryModelLoad(load_request(name, SLOW), timeout=PATIENCE)
    answered, lost = names
    with kept_open(numbered(lost, 1)) as messages:
        stream = stub.ModelStreamInfer(messages, timeout=60)
        calls = [stub.ModelInfer.future(numbered(name, 2), timeout=60) for name in names]
        eventually(lambda: all(gate(name).reached.is_set() for name in names))
        eventually(lambda: pending(server, lost) == 2)
        stopped = server.begin_stop()
        gate(answered).open()
        assert [outcome(call.result)[0] for call in calls] == ["OK", "UNAVAILABLE"]
        assert outcome(lambda: list(stream))[0] == "UNAVAILABLE"
        gate(lost).open()
        stopped.result(PATIENCE)  # type: ignore[call-arg]


BLOCKED = """
import threading
class TritonPythonModel:
    def execute(self, requests):
        threading.Event().wait()
"""


def test_a_process_with_a_blocked_model_an_open_stream_and_a_blocked_load_ends_with_zero(
    transport: str, tiny_repository: Path, data_dir: Path
) -> None:
    flags = (f"--grpc-server={transport}", "--model-control-mode=explicit", "--drain-seconds=0.5")
    with process(tiny_repository, data_dir, *flags) as (running, address), connect(address) as channel:
        stub = stub_of(channel)
        stub.RepositoryModelLoad(load_request("blocked", BLOCKED), timeout=LIMIT)
        stub.RepositoryModelLoad(load_request("echo"), timeout=LIMIT)
        with kept_open(numbered("echo", 1), numbered("blocked", 2)) as messages:
            stream = stub.ModelStreamInfer(messages, timeout=LIMIT)
            assert next(stream).infer_response.id == "1"
            blocked = stub.ModelInfer.future(numbered("blocked", 3), timeout=LIMIT)
            code = BLOCKED.replace("execute", "initialize")
            load = stub.RepositoryModelLoad.future(load_request("never", code), timeout=LIMIT)
            eventually(lambda: "LOADING" in str(stub.RepositoryIndex(pb.RepositoryIndexRequest())))
            running.send_signal(signal.SIGTERM)
            for call in (blocked, load, stream):
                assert outcome(lambda call=call: list(call) if call is stream else call.result())[0] == "UNAVAILABLE"
        _, err = running.communicate(timeout=LIMIT)
        assert running.returncode == 0, err
        assert "Traceback" not in err
