"""From what went wrong to a gRPC status with details that a machine can read.

Details follow google.rpc: BadRequest names the field, RetryInfo says when to try again
(https://google.aip.dev/193).
"""

import logging
from dataclasses import dataclass

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from nextact_server.inference.batcher import BatcherClosed, BatchError, DeadlineExpired, QueueFull
from nextact_server.inference.infer_errors import InferError
from nextact_server.pipeline import UnknownModelVersion
from nextact_server.sequence.index import IndexFull
from nextact_server.sequence.journal import StoreUnavailable

logger = logging.getLogger(__name__)

DETAILS_KEY = "grpc-status-details-bin"
MAX_TEXT_BYTES = 1000
"""Most of a message's or a description's bytes that are sent: both may repeat what a caller sent."""
MAX_MODEL_TEXT_BYTES = 4000
"""The same for what a model says of its own failure, a traceback mostly, which stands in no details beside it."""


@dataclass(frozen=True, slots=True)
class Violation:
    """What was wrong with a field of the request."""

    field: str
    description: str


class CallError(Exception):
    """A call that ends with a status other than OK."""

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        violation: Violation | None = None,
        retry_after_s: float | None = None,
        *,
        text_bytes: int = MAX_TEXT_BYTES,
    ) -> None:
        message = _clipped(message, text_bytes)
        super().__init__(message)
        self.code = code
        self.message = message
        self.violation = violation
        self.retry_after_s = retry_after_s

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        """The details as gRPC carries them; none where there is nothing to add."""
        details: list[AnyMessage] = []
        if self.violation is not None:
            bad = error_details_pb2.BadRequest()
            description = _clipped(self.violation.description)
            bad.field_violations.add(field=_clipped(self.violation.field), description=description)
            details.append(_packed(bad))
        if self.retry_after_s is not None:
            delay = Duration(nanos=int((self.retry_after_s % 1) * 1e9), seconds=int(self.retry_after_s))
            details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
        if not details:
            return ()
        status = status_pb2.Status(code=self.code.value[0], message=self.message, details=details)
        return ((DETAILS_KEY, status.SerializeToString()),)


def invalid(field: str, description: str) -> CallError:
    """INVALID_ARGUMENT that names the field."""
    return CallError(grpc.StatusCode.INVALID_ARGUMENT, f"{field}: {description}", Violation(field, description))


def too_much(message: str, retry_after_s: float | None = None) -> CallError:
    """RESOURCE_EXHAUSTED, with the time after which trying again can help, if it can."""
    return CallError(grpc.StatusCode.RESOURCE_EXHAUSTED, message, retry_after_s=retry_after_s)


def unavailable(message: str) -> CallError:
    """UNAVAILABLE: nothing is known of the call's effect; send it again with the same message ids."""
    return CallError(grpc.StatusCode.UNAVAILABLE, message)


def as_call_error(error: BaseException) -> CallError:
    """The status for anything that a room raised."""
    if isinstance(error, CallError):
        return error
    if isinstance(error, InferError):
        return _as_triton_says(error)
    if isinstance(error, QueueFull):
        return too_much(str(error), max(error.retry_after_s, 0.01))
    if isinstance(error, IndexFull):
        return too_much(str(error))
    if isinstance(error, UnknownModelVersion):
        return CallError(grpc.StatusCode.NOT_FOUND, str(error))
    if isinstance(error, StoreUnavailable):
        return unavailable(str(error))
    if isinstance(error, BatcherClosed):
        return unavailable("the server is stopping")
    if isinstance(error, DeadlineExpired):
        return CallError(grpc.StatusCode.DEADLINE_EXCEEDED, str(error))
    if isinstance(error, BatchError):
        logger.error("a batch failed", exc_info=error)
        return unavailable(str(error))
    logger.error("unexpected failure of a call", exc_info=error)
    return unavailable("the server could not complete the call; its log says why")


def _as_triton_says(error: InferError) -> CallError:
    """The message is Triton's own, and stays as it is: clients look for it."""
    code = grpc.StatusCode[error.code.value]
    # What is not ASCII takes three times its bytes in a status, and all else beside the text has to fit too.
    is_short = error.retry_after_s is None and error.message.isascii()
    text_bytes = MAX_MODEL_TEXT_BYTES if is_short else MAX_TEXT_BYTES
    return CallError(code, error.message, retry_after_s=error.retry_after_s, text_bytes=text_bytes)


def _clipped(text: str, text_bytes: int = MAX_TEXT_BYTES) -> str:
    """Text short enough to go with all else into the 8 KiB of trailers that a client takes by default.

    What a model says may hold lone surrogates, which no transport takes.
    """
    encoded = text.encode(errors="replace")
    if len(encoded) <= text_bytes:
        return encoded.decode()
    return encoded[:text_bytes].decode(errors="ignore") + "..."


def _packed(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed
