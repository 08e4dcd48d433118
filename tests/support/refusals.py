"""What a failed call says: its code, and the details that a machine reads."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status


@dataclass(frozen=True, slots=True)
class Refusal:
    """A status other than OK: `fields` are those that BadRequest names, `retry_s` is RetryInfo's delay, if any."""

    code: grpc.StatusCode
    message: str
    fields: tuple[str, ...]
    retry_s: float | None


def refusal_of(error: Any) -> Refusal:
    """Reads an error."""
    fields: list[str] = []
    retry_s = None
    status = rpc_status.from_call(error)
    for detail in status.details if status is not None else ():
        if detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest.FromString(detail.value)
            fields += [violation.field for violation in bad.field_violations]
        if detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            delay = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
            retry_s = delay.seconds + delay.nanos / 1e9
    return Refusal(error.code(), error.details(), tuple(fields), retry_s)


def refused(call: Callable[[], Any]) -> Refusal:
    """The refusal that the call ends with."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return refusal_of(caught.value)
