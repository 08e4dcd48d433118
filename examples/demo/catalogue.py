"""The catalogue goes in, and its vectors are asked a few questions."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from demo.traffic import Refused
from demo.world import World
from nextact import Client, Content, Item, ItemStatus

QUERIES = ("something citrus for breakfast", "milk without the cow", "green and leafy", "a tropical fruit")


def register(client: Client, world: World, console: Console) -> None:
    """Registers the catalogue, twice: the second time every content is known."""
    items = [*world.movies, *world.groceries]
    blocks = [items[start : start + 500] for start in range(0, len(items), 500)]
    start = time.monotonic()
    shown = track(blocks, "registering items", console=console, transient=True, disable=not console.is_terminal)
    for block in shown:
        _upsert(client, block)
    first, start = time.monotonic() - start, time.monotonic()
    for block in blocks:
        _upsert(client, block)
    again = time.monotonic() - start
    console.print(
        f"[bold]2. The catalogue[/]: {len(world.movies):,} movies by their texts and {len(world.groceries)} groceries "
        f"by text and photo in {first:.1f} s; the same again, all content known, in {again:.2f} s"
    )


def look_up(client: Client, world: World, console: Console) -> None:
    """Shows the groceries nearest to a few texts, by the vectors of their descriptions and photos together."""
    vectors = client.embed(Content(item.text, item.image) for item in world.groceries).vectors
    asked = client.embed(QUERIES).vectors
    table = Table("asked for", "nearest groceries, by description and photo together")
    for query, vector in zip(QUERIES, asked, strict=True):
        table.add_row(query, _nearest(world.groceries, world.names, vectors @ vector))
    console.print(table)


def _upsert(client: Client, items: Sequence[Item]) -> None:
    for result in client.upsert_items(items):
        if result.status is ItemStatus.INVALID:
            raise Refused(f"item {result.item_id}: {result.reason}")


def _nearest(items: Sequence[Item], names: Mapping[str, str], similarity: np.ndarray) -> str:
    return ", ".join(f"{names[items[at].item_id]} {similarity[at]:.2f}" for at in np.argsort(-similarity)[:3])
