"""What is traced, and how often: the settings of TraceSetting, for all models and for single ones.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_trace.md
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nextact_server.inference.infer_errors import ErrorCode, InferError, invalid_argument

__all__ = ["DEFAULTS", "TraceSettings", "parse_changes"]

UINT32_MAX = 2**32 - 1
INT32_MAX = 2**31 - 1
LEVELS = ("TIMESTAMPS", "TENSORS")
_LEADING_INTEGER = re.compile(r"\s*([+-]?\d+)", re.ASCII)
_DIGITS = 25


@dataclass(frozen=True, slots=True)
class TraceSettings:
    """Which requests leave a trace, and where.

    Attributes:
        levels: TIMESTAMPS and TENSORS; none: off.
        rate: one of so many requests is traced.
        count: so many more are traced; -1: no end.
        frequency: a file of its own for so many traces, `<file>.<n>`; 0: one file.
        file: where they are written; None: nowhere, and then no level can be set.
    """

    levels: frozenset[str] = frozenset()
    rate: int = 1000
    count: int = -1
    frequency: int = 0
    file: Path | None = None

    def check(self) -> None:
        """Raise INVALID_ARGUMENT, as Triton words it, for settings that trace and cannot."""
        reason = None
        if self.levels and self.file is None:
            reason = "trace file name is not given"
        elif self.levels and self.rate == 0:
            reason = "sample rate must be non-zero"
        elif self.levels and self.count == 0:
            reason = ""
        if reason is not None:
            raise invalid_argument(f"Attempting to set invalid trace setting :{reason}")

    def with_changes(self, changes: Mapping[str, object]) -> "TraceSettings":
        """These settings with some fields replaced."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def as_values(self) -> dict[str, list[str]]:
        """The settings as TraceSetting answers them."""
        return {
            "trace_level": [level for level in LEVELS if level in self.levels] or ["OFF"],
            "trace_rate": [str(self.rate)],
            "trace_count": [str(self.count)],
            "log_frequency": [str(self.frequency)],
            "trace_file": [str(self.file or "")],
            "trace_mode": ["triton"],
        }


DEFAULTS = TraceSettings()


def parse_changes(settings: Mapping[str, Sequence[str]], directory: Path | None) -> dict[str, object]:
    """The fields of `TraceSettings` that a call changes; None for one that it clears (an empty list).

    Keys and levels that are not known, and `trace_mode`, count for nothing, as in Triton. `trace_file` names a file in
    `directory`; without one it is refused, as Triton always does.

    Raises:
        InferError: a value that makes no sense, with Triton's wording.
    """
    changes: dict[str, object] = {}
    for key, values in settings.items():
        if key == "trace_file":
            changes["file"] = _file(values, directory)
        elif key == "trace_level":
            changes["levels"] = _levels(values)
        elif key == "trace_rate":
            changes["rate"] = _uint32(key, values)
        elif key == "log_frequency":
            changes["frequency"] = _uint32(key, values)
        elif key == "trace_count":
            changes["count"] = _count(key, values)
    return changes


def _levels(values: Sequence[str]) -> frozenset[str] | None:
    if not values:
        return None
    if "OFF" in values and len(values) > 1:
        raise invalid_argument("Expect only one trace level 'OFF' is specified")
    return frozenset(value for value in values if value in LEVELS)


def _uint32(key: str, values: Sequence[str]) -> int | None:
    if not values:
        return None
    number = _number(key, values, 0, UINT32_MAX)
    if number > UINT32_MAX or number < -UINT32_MAX:
        raise _out_of_range(key, values, 0, UINT32_MAX)
    return number % (UINT32_MAX + 1)  # -1 is the most there can be, as for Triton


def _count(key: str, values: Sequence[str]) -> int | None:
    if not values:
        return None
    number = _number(key, values, -1, INT32_MAX)
    if not -INT32_MAX - 1 <= number <= INT32_MAX:
        raise _out_of_range(key, values, -1, INT32_MAX)
    if number < -1:
        raise invalid_argument(f"Unable to parse '{key}'. Expecting value >= -1, got: {values[0]}")
    return number


def _number(key: str, values: Sequence[str], least: int, most: int) -> int:
    if len(values) > 1:
        raise invalid_argument(f"expect only 1 value for '{key}'")
    found = _LEADING_INTEGER.match(values[0])
    if found is None:
        raise invalid_argument(f"Unable to parse '{key}', got: {values[0]}")
    if len(found[1]) > _DIGITS:
        raise _out_of_range(key, values, least, most)
    return int(found[1])


def _out_of_range(key: str, values: Sequence[str], least: int, most: int) -> InferError:
    return invalid_argument(f"Unable to parse '{key}', value is out of range [ {least}, {most} ], got: {values[0]}")


def _file(values: Sequence[str], directory: Path | None) -> Path | None:
    if directory is None:
        raise InferError(ErrorCode.UNSUPPORTED, "trace file location can not be updated through network protocol")
    if not values:
        return None
    if len(values) > 1:
        raise invalid_argument("expect only 1 value for 'trace_file'")
    root = directory.resolve()
    try:
        file = (root / values[0]).resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise invalid_argument(f"'trace_file' is no path: {error}") from error
    if root not in file.parents:
        raise invalid_argument(f"'trace_file' must be a file within the server's trace directory, got: {values[0]}")
    return file
