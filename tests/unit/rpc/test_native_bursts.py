"""What the native front hands over, before any of it is computed."""

from typing import Any

from pygrpc_native import EVENT_CALL, EVENT_CANCEL

from nextact.v1 import behavior_pb2 as pb
from nextact_server.rpc.admission import Admission
from nextact_server.rpc.native_server import NativeServer


def burst_reader() -> Any:
    """A server that reads, and has no front to answer through."""
    server: Any = object.__new__(NativeServer)
    server._methods = [("Predict", None)]
    server._admission = Admission(1024)
    server._open = {}
    return server


def test_a_call_whose_caller_has_gone_before_it_was_read_is_never_computed() -> None:
    payload = pb.PredictRequest(request_id="r").SerializeToString()
    details = ((), "peer", None)
    predicts: dict[int, pb.PredictRequest] = {}
    events = [
        (EVENT_CALL, 7, 0, payload, None, details),
        (EVENT_CALL, 8, 0, payload, None, details),
        (EVENT_CANCEL, 7, 0, None, None, None),
    ]
    burst_reader()._read(events, predicts)
    assert list(predicts) == [8]
