"""How a model says what went wrong, and how it is told."""

import os
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

from nextact_server.inference import infer_errors

__all__ = [
    "ErrorCode",
    "TritonError",
    "TritonModelException",
    "describe",
    "incompatible",
    "infer_error",
    "triton_error",
]

_OWN_CODE = str(Path(__file__).parents[3]) + os.sep


class TritonModelException(Exception):
    """A call of the backend's own functions that cannot be done."""

    __module__ = "c_python_backend_utils"  # as it is called in messages that Triton words


class ErrorCode(IntEnum):
    """The codes of a TritonError, numbered as in Triton."""

    UNKNOWN = 0
    INTERNAL = 1
    NOT_FOUND = 2
    INVALID_ARG = 3
    UNAVAILABLE = 4
    UNSUPPORTED = 5
    ALREADY_EXISTS = 6
    CANCELLED = 7

    def __str__(self) -> str:
        return f"__ErrorCode.{self.name}"


class TritonError:
    """What an InferenceResponse says instead of an answer. It is no exception, as in Triton."""

    __module__ = "c_python_backend_utils"  # as it is called in messages that Triton words

    __slots__ = ("_code", "_message")

    UNKNOWN: ClassVar = ErrorCode.UNKNOWN
    INTERNAL: ClassVar = ErrorCode.INTERNAL
    NOT_FOUND: ClassVar = ErrorCode.NOT_FOUND
    INVALID_ARG: ClassVar = ErrorCode.INVALID_ARG
    UNAVAILABLE: ClassVar = ErrorCode.UNAVAILABLE
    UNSUPPORTED: ClassVar = ErrorCode.UNSUPPORTED
    ALREADY_EXISTS: ClassVar = ErrorCode.ALREADY_EXISTS
    CANCELLED: ClassVar = ErrorCode.CANCELLED

    def __init__(self, message: str, code: ErrorCode = ErrorCode.INTERNAL) -> None:
        if not isinstance(message, str) or not isinstance(code, ErrorCode):
            raise incompatible(
                "c_python_backend_utils.TritonError(message: str, code: c_python_backend_utils.TritonError.__ErrorCode "
                "= <__ErrorCode.INTERNAL: 1>)",
                message,
                code,
            )
        self._message = message
        self._code = code

    def code(self) -> ErrorCode:
        """One of the class's codes."""
        return self._code

    def message(self) -> str:
        """The text for the caller."""
        return self._message


def infer_error(error: TritonError) -> infer_errors.InferError:
    """A model's error as the server passes it on."""
    return infer_errors.InferError(infer_errors.ErrorCode[error.code().name], error.message())


def triton_error(error: infer_errors.InferError) -> TritonError:
    """An error of another model as the one that asked sees it; codes that Triton lacks become UNAVAILABLE."""
    code = ErrorCode.__members__.get(error.code.name, ErrorCode.UNAVAILABLE)
    return TritonError(error.message, code)


def incompatible(signature: str, *args: object, function: str = "__init__") -> TypeError:
    """The error for arguments of the wrong types, in the words of Triton's bindings."""
    kind = "constructor" if function == "__init__" else "function"
    invoked = ", ".join(map(repr, args))
    return TypeError(
        f"{function}(): incompatible {kind} arguments. The following argument types are supported:\n"
        f"    1. {signature}\n\nInvoked with: {invoked}"
    )


def describe(error: BaseException) -> str:
    """An exception as Triton reports it: type, text, and the model's frames, the innermost first."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError) and error.filename:
        text = f"{type(error).__name__}: {error.msg} ({Path(error.filename).name}, line {error.lineno})"
    frames = _frames(error.__traceback__)
    return f"{text}\n\nAt:\n" + "".join(f"  {frame}\n" for frame in frames) if frames else text


def _frames(traceback: TracebackType | None) -> list[str]:
    frames: list[str] = []
    while traceback is not None:
        code: Any = traceback.tb_frame.f_code
        if not code.co_filename.startswith((_OWN_CODE, "<frozen ")):
            frames.append(f"{code.co_filename}({traceback.tb_lineno}): {code.co_name}")
        traceback = traceback.tb_next
    return frames[::-1]
