"""Options that many commands have, and how their values are read."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

Server = Annotated[str, typer.Option(envvar="NEXTACT_SERVER", help="The server's address, host:port.")]
DEFAULT_SERVER = "127.0.0.1:8001"
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
Timeout = Annotated[float | None, typer.Option(help="Seconds that the call may take in all.")]
TopK = Annotated[int, typer.Option(help="How many items (0: the server's default).")]
Anonymous = Annotated[str, typer.Option(help="An anonymous visitor, instead of a user.")]
Attributes = Annotated[list[str] | None, typer.Option("--attribute", metavar="NAME=VALUE", help="May be repeated.")]
ExcludeSeen = Annotated[
    bool | None, typer.Option("--exclude-seen/--include-seen", help="Default: as the model card says.")
]


def moment(text: str | None, option: str) -> datetime | None:
    """Reads an ISO 8601 time with a zone.

    Raises:
        typer.BadParameter: it is not one.
    """
    if text is None:
        return None
    try:
        value = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"{option}: {text!r} is not an ISO 8601 time") from error
    if value.tzinfo is None:
        raise typer.BadParameter(f"{option}: {text!r} has no time zone; add Z or an offset such as +02:00")
    return value


def pairs(values: Iterable[str] | None, option: str) -> dict[str, str]:
    """Reads NAME=VALUE options.

    Raises:
        typer.BadParameter: one has no '='.
    """
    found = {}
    for text in values or ():
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise typer.BadParameter(f"{option}: {text!r} is not NAME=VALUE")
        found[name] = value
    return found


def image_bytes(path: Path | None) -> bytes:
    """Reads an image file; None is no image."""
    return path.read_bytes() if path is not None else b""
