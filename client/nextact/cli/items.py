"""`nextact item`: the catalogue."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from nextact.cli import options, output
from nextact.cli.options import DEFAULT_SERVER, Attributes, Json, Server, Timeout
from nextact.sync_client import Client
from nextact.types import Item, ItemStatus

_ItemId = Annotated[str, typer.Argument(metavar="ITEM")]
_COLUMNS = ("item", "text", "attributes", "available")
_FIELDS = {"item_id", "text", "image", "attributes", "available"}


def build() -> typer.Typer:
    """Puts the commands together."""
    app = typer.Typer(help="Register, read and delete items.", no_args_is_help=True, rich_markup_mode=None)
    app.command()(upsert)
    app.command()(get)
    app.command("list")(list_items)
    app.command()(delete)
    return app


def upsert(
    item: Annotated[str, typer.Argument(metavar="ITEM", help="Its id.")] = "",
    text: Annotated[str, typer.Option(help="Its title or description.")] = "",
    image: Annotated[Path | None, typer.Option(help="A JPEG, PNG or WebP file.")] = None,
    attribute: Attributes = None,
    available: Annotated[bool, typer.Option("--available/--unavailable", help="Whether it may be ranked.")] = True,
    file: Annotated[
        Path | None,
        typer.Option(help="Many items, one JSON object a line: item_id, text, image (a file), attributes, available."),
    ] = None,
    server: Server = DEFAULT_SERVER,
    timeout: Timeout = None,
    json: Json = False,
) -> None:
    """Register items, or replace those registered before."""
    if bool(item) == (file is not None):
        raise typer.BadParameter("give either an item or --file")
    attributes = options.pairs(attribute, "--attribute")
    items = [Item(item, text, options.image_bytes(image), attributes, available)] if file is None else _read_items(file)
    with Client(server) as client:
        results = client.upsert_items(items, timeout=timeout)
    if json:
        output.print_json(results)
    else:
        refused = [(r.item_id, r.reason) for r in results if r.status is ItemStatus.INVALID]
        if refused:
            output.print_table("Refused", ("item", "reason"), refused)
        counts = Counter(result.status for result in results)
        print(", ".join(f"{count} {status.lower()}" for status, count in counts.items()))
    if any(result.status is ItemStatus.INVALID for result in results):
        raise typer.Exit(1)


def get(item: _ItemId, server: Server = DEFAULT_SERVER, timeout: Timeout = None, json: Json = False) -> None:
    """Print one item."""
    with Client(server) as client:
        found = client.get_item(item, timeout=timeout)
    if json:
        output.print_json(found)
        return
    image = f"{len(found.image):,} bytes" if found.image else ""
    row = (found.item_id, found.text, found.attributes, found.available, image)
    output.print_table("Item", (*_COLUMNS, "image"), [row])


def list_items(
    limit: Annotated[int, typer.Option(help="How many at most (0: all).")] = 100,
    server: Server = DEFAULT_SERVER,
    timeout: Timeout = None,
    json: Json = False,
) -> None:
    """Print the catalogue."""
    with Client(server) as client:
        pages = client.list_items(page_size=min(limit, 1000) or 1000, timeout=timeout)
        found = list(islice(pages, limit or None))
    if json:
        output.print_json(found)
    else:
        rows = [(item.item_id, item.text, item.attributes, item.available) for item in found]
        output.print_table("Catalogue", _COLUMNS, rows)


def delete(item: _ItemId, server: Server = DEFAULT_SERVER, timeout: Timeout = None, json: Json = False) -> None:
    """Remove one item from the catalogue."""
    with Client(server) as client:
        existed = client.delete_item(item, timeout=timeout)
    if json:
        output.print_json({"existed": existed})
    else:
        print("deleted" if existed else "there was none")


def _read_items(path: Path) -> Iterator[Item]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                fields = json.loads(line)
                unknown = sorted(set(fields) - _FIELDS)
                if unknown:
                    raise ValueError(f"an item has no field {unknown[0]!r}")
                image = fields.pop("image", None)
                # Relative to the file that names it, so that a catalogue may be moved as a folder.
                yield Item(**fields, image=options.image_bytes(path.parent / image if image else None))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
