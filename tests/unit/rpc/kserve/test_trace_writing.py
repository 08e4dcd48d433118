"""Traces: which requests leave one, what it says, and the files that it gets to."""

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nextact_server.inference.infer_errors import internal
from nextact_server.inference.infer_request import InferRequest, InferResponse
from nextact_server.inference.instance import StageTimes
from nextact_server.rpc.kserve.trace import Moment, Trace, Tracer


class Nobody:
    def respond(self, request: object, response: object, final: bool) -> None:
        """Nobody listens."""


@pytest.fixture
def tracer(tmp_path: Path) -> Iterator[Tracer]:
    tracer = Tracer(tmp_path)
    yield tracer
    tracer.close()


def turn_on(tracer: Tracer, model: str = "", **settings: list[str]) -> None:
    tracer.update(model, {"trace_level": ["TIMESTAMPS"], "trace_rate": ["1"], **settings})


def request_for(tracer: Tracer, model: str = "m", id: str = "") -> InferRequest:
    """A request on its whole way, traced if it is sampled."""
    request = InferRequest({"IN": np.array([[1.5, -2.0]], np.float32)}, Nobody(), id=id)
    tracer.watch(request, model, 3, request.arrived_ns - 1)
    times = StageTimes()
    times.input_ns, times.infer_ns, times.output_ns = 10, 20, 30
    tracer.executed([request], time.monotonic_ns(), times)
    request.respond(InferResponse({"OUT": np.array([[b"a", b"\xff"]], object)}))
    return request


def read(path: Path) -> list[Any]:
    found: list[Any] = json.loads(path.read_text())
    return found


def ids(path: Path) -> list[str]:
    return [entry["request_id"] for entry in read(path) if "model_name" in entry]


def test_nothing_is_traced_until_it_is_asked_for(tracer: Tracer, tmp_path: Path) -> None:
    assert tracer.sample("m") is None
    turn_on(tracer)
    assert tracer.sample("m") is not None
    tracer.update("", {"trace_level": ["OFF"]})
    assert tracer.sample("m") is None
    tracer.flush()
    assert not list(tmp_path.iterdir())


def test_a_trace_has_the_moments_of_its_request_in_order(tracer: Tracer, tmp_path: Path) -> None:
    turn_on(tracer)
    request = request_for(tracer, id="r1")
    tracer.flush()
    head, *moments = read(tmp_path / "trace.json")
    assert head == {"id": 1, "model_name": "m", "model_version": 3, "request_id": "r1"}
    [stamps] = zip(*(moment["timestamps"] for moment in moments), strict=True)
    assert [stamp["name"] for stamp in stamps][:4] == [
        "GRPC_WAITREAD_START",
        "GRPC_WAITREAD_END",
        "REQUEST_START",
        "QUEUE_START",
    ]
    assert {stamp["name"] for stamp in stamps} == {moment.value for moment in Moment}
    times = {stamp["name"]: stamp["ns"] for stamp in stamps}
    assert list(times.values()) == sorted(times.values())
    assert times["REQUEST_START"] == request.arrived_ns
    assert times["COMPUTE_INPUT_END"] - times["COMPUTE_START"] == 10
    assert times["COMPUTE_OUTPUT_START"] - times["COMPUTE_INPUT_END"] == 20
    assert times["COMPUTE_END"] - times["COMPUTE_OUTPUT_START"] == 30


def test_who_waits_for_a_traced_request_gets_its_responses(tracer: Tracer, tmp_path: Path) -> None:
    got: list[tuple[object, bool]] = []

    class Sink:
        def respond(self, request: object, response: object, final: bool) -> None:
            got.append((response, final))

    turn_on(tracer)
    request = InferRequest({}, Sink())
    tracer.watch(request, "m", 1)
    first, last = InferResponse({}), internal("x")
    request.respond(first, final=False)
    request.respond(last)
    assert got == [(first, False), (last, True)]
    tracer.flush()
    names = [entry["timestamps"][0]["name"] for entry in read(tmp_path / "trace.json")[1:]]
    assert names.count("INFER_RESPONSE_COMPLETE") == names.count("GRPC_SEND_END") == 2
    assert names[-1] == "REQUEST_END"


def test_tensors_are_traced_where_they_are_asked_for(tracer: Tracer, tmp_path: Path) -> None:
    turn_on(tracer, trace_level=["TENSORS"])
    request_for(tracer)
    tracer.flush()
    assert read(tmp_path / "trace.json") == [
        {"id": 1, "model_name": "m", "model_version": 3},
        {
            "id": 1,
            "activity": "TENSOR_QUEUE_INPUT",
            "tensor": {"name": "IN", "data": "1.5,-2", "shape": "1,2", "dtype": "FP32"},
        },
        {
            "id": 1,
            "activity": "TENSOR_BACKEND_OUTPUT",
            "tensor": {"name": "OUT", "data": "a,\\xff", "shape": "1,2", "dtype": "BYTES"},
        },
    ]


def test_one_of_rate_is_traced_until_there_are_count(tracer: Tracer, tmp_path: Path) -> None:
    turn_on(tracer, trace_rate=["2"], trace_count=["3"])
    for number in range(9):
        request_for(tracer, id=f"r{number}")
    assert tracer.settings()["trace_count"] == ["0"]
    tracer.flush()
    assert ids(tmp_path / "trace.json") == ["r1", "r3", "r5"]


def test_a_model_with_settings_of_its_own_is_counted_for_itself(tracer: Tracer, tmp_path: Path) -> None:
    turn_on(tracer, "m", trace_count=["1"], trace_file=["m.json"])
    for model in ("n", "m", "m"):
        request_for(tracer, model, id=model)
    turn_on(tracer)
    assert tracer.settings("m")["trace_count"] == ["0"], "others' settings begin nothing anew"
    for model in ("n", "m"):
        request_for(tracer, model, id=model)
    tracer.flush()
    assert ids(tmp_path / "m.json") == ["m"]
    assert ids(tmp_path / "trace.json") == ["n"]


def test_log_frequency_gives_every_so_many_traces_a_file(tracer: Tracer, tmp_path: Path) -> None:
    turn_on(tracer, log_frequency=["2"])
    for number in range(5):
        request_for(tracer, id=f"r{number}")
    tracer.flush()
    assert [ids(tmp_path / f"trace.json.{number}") for number in range(3)] == [["r0", "r1"], ["r2", "r3"], ["r4"]]
    assert not (tmp_path / "trace.json").exists()


def test_a_file_is_valid_after_every_write(tracer: Tracer, tmp_path: Path) -> None:
    (tmp_path / "trace.json").write_text("what was there before")
    turn_on(tracer)
    for number in range(3):
        request_for(tracer, id=f"r{number}")
        tracer.flush()
        assert ids(tmp_path / "trace.json") == [f"r{before}" for before in range(number + 1)]


def test_what_was_traced_before_the_settings_changed_is_written(tracer: Tracer, tmp_path: Path) -> None:
    turn_on(tracer)
    request_for(tracer, id="before")
    late = tracer.sample("m")
    assert late is not None
    tracer.update("", {"trace_file": ["other.json"]})
    late.begin(InferRequest({}, Nobody(), id="late"), 1)
    late.finish()
    request_for(tracer, id="after")
    tracer.flush()
    assert ids(tmp_path / "trace.json") == ["before", "late"]
    assert ids(tmp_path / "other.json") == ["after"]


def test_the_traces_of_an_ensembles_steps_name_their_parent(tracer: Tracer, tmp_path: Path) -> None:
    turn_on(tracer)
    parent = tracer.sample("ens")
    assert parent is not None
    child = parent.child("step")
    for trace in (child, parent):
        trace.begin(InferRequest({}, Nobody()), 1)
        trace.finish()
    tracer.flush()
    heads = [entry for entry in read(tmp_path / "trace.json") if "model_name" in entry]
    assert heads == [
        {"id": 2, "model_name": "step", "model_version": 1, "parent_id": 1},
        {"id": 1, "model_name": "ens", "model_version": 1},
    ]


def test_a_disk_that_fails_loses_traces_and_nothing_else(
    tracer: Tracer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "trace.json").mkdir()
    turn_on(tracer)
    request_for(tracer)
    with caplog.at_level(logging.ERROR):
        tracer.flush()
    assert "1 traces are lost" in caplog.text
    (tmp_path / "trace.json").rmdir()
    request_for(tracer, id="r2")
    tracer.flush()
    assert ids(tmp_path / "trace.json") == ["r2"]


def test_closing_writes_what_there_is_and_ends_tracing(tmp_path: Path) -> None:
    tracer = Tracer(tmp_path)
    turn_on(tracer)
    request_for(tracer, id="r1")
    late: Trace | None = tracer.sample("m")
    assert late is not None
    tracer.close()
    late.finish()
    assert tracer.sample("m") is None
    assert ids(tmp_path / "trace.json") == ["r1"]
