"""The one error that calls raise, with what the server said in the status details (google.rpc.Status)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from grpc_status import rpc_status


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field of the request that was wrong, as google.rpc.BadRequest names it."""

    field: str
    description: str


class NextactError(Exception):
    """A call failed. `str()` is one readable line.

    Attributes:
        code: the gRPC status code.
        message: what the server, or gRPC itself, said.
        violations: for INVALID_ARGUMENT, the fields that were wrong.
        retry_after_s: for RESOURCE_EXHAUSTED and UNAVAILABLE, when the server wants the next attempt, in seconds.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        violations: tuple[FieldViolation, ...] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(code, message, violations, retry_after_s)
        self.code = code
        self.message = message
        self.violations = violations
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        parts = [f"{self.code.name}: {self.message}" if self.message else self.code.name]
        # A server may repeat the violation as its message; once is enough for a reader.
        parts += [f"{v.field}: {v.description}" for v in self.violations if v.description not in self.message]
        if self.retry_after_s is not None:
            parts.append(f"try again in {self.retry_after_s:g} s")
        return " ".join("; ".join(parts).split())


def from_rpc_error(error: grpc.RpcError) -> NextactError:
    """Reads code, message and details of a failed call, of `grpc` or of `grpc.aio`."""
    call: Any = error  # both libraries raise an error that has the methods of grpc.Call; the stubs do not say so
    violations: list[FieldViolation] = []
    retry_after_s: float | None = None
    for detail in _details(call):
        if detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest.FromString(detail.value)
            violations += [FieldViolation(v.field, v.description) for v in bad.field_violations]
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            delay = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
            retry_after_s = delay.seconds + delay.nanos / 1e9
    return NextactError(call.code(), call.details() or "", tuple(violations), retry_after_s)


def _details(call: Any) -> Iterator[Any]:
    try:
        status = rpc_status.from_call(call)
    except (ValueError, DecodeError):
        return  # details that contradict the status or cannot be read: the status itself still stands
    if status is not None:
        yield from status.details
