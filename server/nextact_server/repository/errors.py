"""What can be wrong with a model repository."""

from pathlib import Path

from nextact_server.inference.device import DeviceError
from nextact_server.inference.infer_errors import ErrorCode, InferError

__all__ = ["ModelNotFoundError", "RepositoryError", "status_text"]


class RepositoryError(ValueError):
    """A repository that cannot be read; the message names the file and, where known, the line and the field."""

    def __init__(self, path: Path, reason: str, *, line: int | None = None, field: str | None = None) -> None:
        where = f"{path}:{line}" if line else str(path)
        what = f"{field}: {reason}" if field else reason
        super().__init__(f"{where}: {what}")
        self.path = path
        self.reason = reason
        self.line = line
        self.field = field


class ModelNotFoundError(LookupError):
    """A model, or a version of one, that the repository does not have."""


_STATUS = {
    ErrorCode.UNKNOWN: "Unknown",
    ErrorCode.INTERNAL: "Internal",
    ErrorCode.NOT_FOUND: "Not found",
    ErrorCode.INVALID_ARG: "Invalid argument",
    ErrorCode.UNAVAILABLE: "Unavailable",
    ErrorCode.UNSUPPORTED: "Unsupported",
    ErrorCode.ALREADY_EXISTS: "Already exists",
    ErrorCode.CANCELLED: "Cancelled",
}


def status_text(error: BaseException) -> str:
    """Why a version is not served, as RepositoryIndex says it: Triton's status name before the message.

    It is Unicode whatever a model raised: one lone surrogate would leave the whole index without an answer.
    """
    if isinstance(error, InferError):
        text = f"{_STATUS.get(error.code, 'Internal')}: {error.message}"
    elif isinstance(error, (RepositoryError, DeviceError)):
        text = f"Invalid argument: {error}"
    else:
        text = f"Internal: {type(error).__name__}: {error}"
    return text.encode(errors="replace").decode()
