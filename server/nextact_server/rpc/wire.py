"""Which field of a message's bytes is broken: protobuf's own parser says only that one is.

Wire format: https://protobuf.dev/programming-guides/encoding/
"""

import itertools
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

VARINT, FIXED64, LENGTH, GROUP_START, GROUP_END, FIXED32 = range(6)
MAX_DEPTH = 100
MAX_FIELDS = 100_000
"""Fields looked at before giving up: the search costs a microsecond or two each, and must not hold up other calls."""


class _BrokenError(Exception):
    pass


def broken_field(kind: Any, payload: bytes) -> tuple[str, str]:
    """Path of the first broken field, '' if it cannot be told, and what is wrong with it."""
    try:
        return _find(kind, memoryview(payload), "", 0, itertools.count(1)) or ("", "cannot be parsed")
    except _BrokenError as error:
        return "", str(error)


def _find(kind: Any, data: memoryview, path: str, depth: int, count: "itertools.count[int]") -> tuple[str, str] | None:
    if depth > MAX_DEPTH:
        return path, f"is nested more than {MAX_DEPTH} deep"
    at = 0
    seen: dict[int, int] = {}
    while at < len(data):
        if next(count) > MAX_FIELDS:
            raise _BrokenError("cannot be parsed")
        tag, at = _varint(data, at)
        field = kind.fields_by_number.get(tag >> 3)
        name = _name(path, field, seen) if field is not None else path
        try:
            value, at = _value(data, at, tag & 7)
        except _BrokenError as error:
            return name, str(error)
        if field is None or value is None:
            continue
        found = _broken_value(field, value, name, depth, count)
        if found is not None:
            return found
    return None


def _broken_value(
    field: FieldDescriptor, value: memoryview, name: str, depth: int, count: "itertools.count[int]"
) -> tuple[str, str] | None:
    if field.type == FieldDescriptor.TYPE_STRING:
        try:
            str(value, "utf-8")
        except UnicodeDecodeError as error:
            return name, f"is not valid UTF-8: {error.reason} at byte {error.start}"
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        return _find(field.message_type, value, name, depth + 1, count)
    return None


def _name(path: str, field: FieldDescriptor, seen: dict[int, int]) -> str:
    name = f"{path}.{field.name}" if path else str(field.name)
    if not field.is_repeated:
        return name
    position = seen.get(field.number, 0)
    seen[field.number] = position + 1
    return f"{name}[{position}]"


def _value(data: memoryview, at: int, wire_type: int) -> tuple[memoryview | None, int]:
    if wire_type == VARINT:
        return None, _varint(data, at)[1]
    if wire_type in (FIXED64, FIXED32):
        return None, _within(data, at + (8 if wire_type == FIXED64 else 4))
    if wire_type == LENGTH:
        length, start = _varint(data, at)
        stop = _within(data, start + length)
        return data[start:stop], stop
    raise _BrokenError(f"has wire type {wire_type}, which is not used")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise _BrokenError("ends in the middle of a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _BrokenError("has a number of more than 10 bytes")


def _within(data: memoryview, stop: int) -> int:
    if stop > len(data):
        raise _BrokenError(f"ends {stop - len(data)} bytes too early")
    return stop
