"""What a tensor request may be told instead of an answer: Triton's error codes, without any transport."""

from enum import Enum

__all__ = ["ErrorCode", "InferError", "cancelled", "internal", "invalid_argument", "not_found", "unavailable"]


class ErrorCode(Enum):
    """TRITONSERVER_Error_Code; the values are the names of the gRPC codes that Triton answers with."""

    UNKNOWN = "UNKNOWN"
    INTERNAL = "INTERNAL"
    NOT_FOUND = "NOT_FOUND"
    INVALID_ARG = "INVALID_ARGUMENT"
    UNAVAILABLE = "UNAVAILABLE"
    UNSUPPORTED = "UNIMPLEMENTED"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    CANCELLED = "CANCELLED"
    EXHAUSTED = "RESOURCE_EXHAUSTED"
    DEADLINE = "DEADLINE_EXCEEDED"


class InferError(Exception):
    """A failed request: a code, and a message meant for the caller. `retry_after_s`: when trying again can help."""

    def __init__(self, code: ErrorCode, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s


def invalid_argument(message: str) -> InferError:
    """The caller's mistake."""
    return InferError(ErrorCode.INVALID_ARG, message)


def not_found(message: str) -> InferError:
    """No such model, version or region."""
    return InferError(ErrorCode.NOT_FOUND, message)


def unavailable(message: str) -> InferError:
    """Not now: not loaded, draining, expired in a queue."""
    return InferError(ErrorCode.UNAVAILABLE, message)


def internal(message: str) -> InferError:
    """The model's own failure."""
    return InferError(ErrorCode.INTERNAL, message)


def cancelled(message: str) -> InferError:
    """The caller went away."""
    return InferError(ErrorCode.CANCELLED, message)
