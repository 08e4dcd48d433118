"""`pb_utils.Logger`: what models write into the server's log."""

import logging
from enum import IntEnum
from typing import ClassVar

from nextact_server.repository.backends.python.context import InstanceContext
from nextact_server.repository.backends.python.errors import incompatible

__all__ = ["LogLevel", "Logger"]

MODEL_LOGGER = "nextact_server.models"


class LogLevel(IntEnum):
    """Triton's levels."""

    INFO = 0
    WARNING = 1
    ERROR = 2
    VERBOSE = 3


_LEVELS: dict[IntEnum, int] = {
    LogLevel.INFO: logging.INFO,
    LogLevel.WARNING: logging.WARNING,
    LogLevel.ERROR: logging.ERROR,
    LogLevel.VERBOSE: logging.DEBUG,
}


class Logger:
    """Its methods are the class's, as in Triton. Lines come from the logger `nextact_server.models.<model>`."""

    LogLevel: ClassVar = LogLevel
    INFO: ClassVar = LogLevel.INFO
    WARNING: ClassVar = LogLevel.WARNING
    ERROR: ClassVar = LogLevel.ERROR
    VERBOSE: ClassVar = LogLevel.VERBOSE

    _context: ClassVar[InstanceContext | None] = None

    @classmethod
    def log(cls, message: str, level: IntEnum = LogLevel.INFO) -> None:
        """Write a line."""
        cls._log("log", message, level)

    @classmethod
    def log_info(cls, message: str) -> None:
        """Write a line of level INFO."""
        cls._log("log_info", message, LogLevel.INFO)

    @classmethod
    def log_warn(cls, message: str) -> None:
        """Write a line of level WARNING."""
        cls._log("log_warn", message, LogLevel.WARNING)

    @classmethod
    def log_error(cls, message: str) -> None:
        """Write a line of level ERROR."""
        cls._log("log_error", message, LogLevel.ERROR)

    @classmethod
    def log_verbose(cls, message: str) -> None:
        """Write a line of level VERBOSE, which is the log's DEBUG."""
        cls._log("log_verbose", message, LogLevel.VERBOSE)

    @classmethod
    def _log(cls, function: str, message: object, level: IntEnum) -> None:
        if not isinstance(message, str):
            raise incompatible("(message: str) -> None", message, function=function)
        name = MODEL_LOGGER if cls._context is None else f"{MODEL_LOGGER}.{cls._context.spec.name}"
        logging.getLogger(name).log(_LEVELS[level], "%s", message, stacklevel=3)
