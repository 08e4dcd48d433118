"""LogSettings: which records of the server's log are written, and how.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_logging.md
"""

import logging
import time
from collections.abc import Callable, Sequence

from tritonclient.grpc import service_pb2 as pb

from nextact_server.inference.infer_errors import ErrorCode, InferError, invalid_argument

__all__ = ["LogSettings"]

FORMATS = ("default", "ISO8601")


class LogSettings:
    """The logger of the server as Triton's log settings see it.

    Errors, warnings and information are switched one by one, `log_verbose_level` above 0 adds what is for debugging.
    The format `default` is the one the handlers had before, ISO8601 is Triton's. Other loggers' records are left alone.
    """

    def __init__(self, logger: logging.Logger, handlers: Callable[[], Sequence[logging.Handler]]) -> None:
        """`handlers` are those that write the logger's records; asked for when settings change."""
        self._logger = logger
        self._level = logger.level
        self._handlers = handlers
        self._verbose = 1 if logger.isEnabledFor(logging.DEBUG) else 0
        self._enabled = {
            "log_error": logger.isEnabledFor(logging.ERROR),
            "log_warning": logger.isEnabledFor(logging.WARNING),
            "log_info": logger.isEnabledFor(logging.INFO),
        }
        self._format = "default"
        self._at_start = dict(self._enabled), self._verbose, self._format
        self._formatters: dict[logging.Handler, logging.Formatter | None] = {}

    def apply(self, request: pb.LogSettingsRequest) -> pb.LogSettingsResponse:
        """Change what the request names, and answer with all settings; keys not known count for nothing, as in Triton.

        Raises:
            InferError: a value of the wrong type or without sense, with Triton's wording; then nothing is changed.
        """
        enabled, verbose, format_name = dict(self._enabled), self._verbose, self._format
        for key, value in request.settings.items():
            kind = value.WhichOneof("parameter_choice")
            if key == "log_file":
                raise InferError(ErrorCode.UNSUPPORTED, "log file location can not be updated through network protocol")
            if key in enabled:
                _expect(key, kind, "bool_param", "boolean")
                enabled[key] = value.bool_param
            elif key == "log_verbose_level":
                _expect(key, kind, "uint32_param", "int32")
                verbose = value.uint32_param
            elif key == "log_format":
                _expect(key, kind, "string_param", "string")
                if value.string_param not in FORMATS:
                    raise invalid_argument(f"invalid argument for log_format, got: {value.string_param}")
                format_name = value.string_param
        if (enabled, verbose, format_name) != (self._enabled, self._verbose, self._format):
            self._enabled, self._verbose, self._format = enabled, verbose, format_name
            if (enabled, verbose, format_name) == self._at_start:
                self.close()
            else:
                self._take_effect()
        return self._response()

    def close(self) -> None:
        """Leave the logger as it was."""
        for handler, formatter in self._formatters.items():
            handler.removeFilter(self.filter)
            handler.setFormatter(formatter)
        self._formatters.clear()
        self._logger.setLevel(self._level)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is written (a handler's filter)."""
        if record.name != self._logger.name and not record.name.startswith(self._logger.name + "."):
            return True
        if record.levelno >= logging.ERROR:
            return self._enabled["log_error"]
        if record.levelno >= logging.WARNING:
            return self._enabled["log_warning"]
        return self._enabled["log_info"] if record.levelno >= logging.INFO else self._verbose > 0

    def _take_effect(self) -> None:
        # What no record needs is stopped at the logger, where it costs least; the filter sorts out the rest.
        levels = [logging.DEBUG] * (self._verbose > 0) + [
            level
            for key, level in (
                ("log_info", logging.INFO),
                ("log_warning", logging.WARNING),
                ("log_error", logging.ERROR),
            )
            if self._enabled[key]
        ]
        self._logger.setLevel(min(levels, default=logging.CRITICAL + 1))
        for handler in self._handlers():
            if handler not in self._formatters:
                self._formatters[handler] = handler.formatter
                handler.addFilter(self.filter)
            handler.setFormatter(_Iso8601() if self._format == "ISO8601" else self._formatters[handler])

    def _response(self) -> pb.LogSettingsResponse:
        response = pb.LogSettingsResponse()
        for key, enabled in self._enabled.items():
            response.settings[key].bool_param = enabled
        response.settings["log_verbose_level"].uint32_param = self._verbose
        response.settings["log_format"].string_param = self._format
        response.settings["log_file"].string_param = ""
        return response


class _Iso8601(logging.Formatter):
    """Triton's other format: `YYYY-MM-DDThh:mm:ssZ L ...`, in UTC, L being the level's first letter."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname).1s %(process)d %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%SZ")

    converter = staticmethod(time.gmtime)


def _expect(key: str, kind: str | None, expected: str, name: str) -> None:
    if kind != expected:
        raise invalid_argument(f"expect {name} for '{key}'")
