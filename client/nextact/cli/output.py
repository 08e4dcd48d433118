"""How answers are printed: tables for people, JSON for machines."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from nextact.types import ItemScores

_SHOWN_NUMBERS = 6


def jsonable(value: Any) -> Any:
    """Returns a result in the types of JSON: arrays as lists (NaN and infinities null), bytes in base64."""
    match value:
        case ItemScores():
            return [{"item_id": item_id, "score": score} for item_id, score in value]
        case np.ndarray() if value.dtype.kind == "f":
            objects = value.astype(object)
            objects[~np.isfinite(value)] = None
            return objects.tolist()
        case np.ndarray():
            return value.tolist()
        case bytes():
            return base64.b64encode(value).decode()
        case datetime():
            return value.isoformat()
        case Mapping():
            return {str(key): jsonable(inner) for key, inner in value.items()}
        case list() | tuple():
            return [jsonable(inner) for inner in value]
    if is_dataclass(value):
        return {field.name: jsonable(getattr(value, field.name)) for field in fields(value)}
    return value


def print_json(value: Any) -> None:
    """Prints a result as one JSON document."""
    sys.stdout.write(json.dumps(jsonable(value), ensure_ascii=False, indent=2) + "\n")


def print_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Prints rows; nothing is cut off, long values go on in the next line."""
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    console = Console(markup=False, highlight=False)
    console.print(title)
    console.print(table)


def note(text: str) -> None:
    """Prints a line for the reader beside the output, to stderr."""
    print(text, file=sys.stderr)


def short_vector(vector: Iterable[float]) -> str:
    """Returns the first numbers of a vector and its length."""
    numbers = list(vector)
    if not numbers:
        return ""
    shown = " ".join(f"{number:+.3f}" for number in numbers[:_SHOWN_NUMBERS])
    return f"{shown} … ({len(numbers)})" if len(numbers) > _SHOWN_NUMBERS else shown


def _cell(value: object) -> str:
    match value:
        case None:
            return ""
        case float():
            return f"{value:.4f}"
        case datetime():
            return value.isoformat(timespec="seconds")
        case Mapping():
            return "\n".join(f"{name} = {inner}" for name, inner in value.items())
    return str(value)
