"""What the native front hands over, before any of it is computed."""

from typing import Any

from pygrpc_native import EVENT_CALL, EVENT_CANCEL

from nextact.v1 import behavior_pb2 as pb
from nextact_server.rpc.admission import Admission
from nextact_server.rpc.native_server import Method, NativeServer
from nextact_server.rpc.predict_burst import PredictBurst


def burst_reader(burst: PredictBurst) -> Any:
    """A server that reads, and has no front to answer through."""
    server: Any = object.__new__(NativeServer)
    nothing: Any = None
    server._by_id = [Method("Predict", nothing, burst)]
    server._bursts = [burst]
    server._admission = Admission(1024)
    return server


def test_a_call_whose_caller_has_gone_before_it_was_read_is_never_computed() -> None:
    payload = pb.PredictRequest(request_id="r").SerializeToString()
    details = ((), "peer", None)
    burst: PredictBurst = object.__new__(PredictBurst)
    calls: dict[PredictBurst, dict[int, pb.PredictRequest]] = {burst: {}}
    events = [
        (EVENT_CALL, 7, 0, payload, None, details),
        (EVENT_CALL, 8, 0, payload, None, details),
        (EVENT_CANCEL, 7, 0, None, None, None),
    ]
    burst_reader(burst)._read(events, calls)
    assert list(calls[burst]) == [8]
