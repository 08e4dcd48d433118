"""The past goes in as a stream of Arrow batches."""

from __future__ import annotations

import time
from collections.abc import Iterator

import polars as pl
import pyarrow as pa
from rich.console import Console

from demo.closing import Speed
from demo.traffic import PREFIX, Expected, Refused
from demo.world import World
from nextact import Client, StreamAck, StreamPredictions

MESSAGE = 512


def replay(client: Client, world: World, console: Console) -> tuple[dict[str, Expected], Speed]:
    """Streams the earlier events, and returns what is then expected of each user."""
    for user in world.live:
        client.delete_user(PREFIX + user)  # every run on a running server starts alike
    start = time.monotonic()
    _check(client.stream(_messages(world.history), id_prefix="history"))
    speed = Speed(world.history.height, time.monotonic() - start)
    # The last event of each user asks for the prediction that the first live event is held against.
    last = client.stream(
        _messages(world.before),
        id_prefix="before",
        predictions=StreamPredictions.LAST_PER_USER,
        top_k=10,
        outputs=("ITEMS", "ACTIONS"),
    )
    held = dict(pair for ack in _check(last) for pair in _expected(ack))
    console.print(f"[bold]3. The past[/] of {len(held)} users the model never saw, streamed as Arrow: {speed}")
    return held, speed


def _messages(events: pl.DataFrame) -> Iterator[pa.Table]:
    named = events.with_columns((PREFIX + pl.col("user_id")).alias("user_id"))
    for start in range(0, events.height, MESSAGE):
        yield named.slice(start, MESSAGE).to_arrow()


def _check(acks: Iterator[StreamAck]) -> list[StreamAck]:
    kept = list(acks)
    for ack in kept:
        for failure in ack.failures:
            raise Refused(f"event {failure.index} of message {ack.number}: {failure.status} {failure.reason}")
    return kept


def _expected(ack: StreamAck) -> Iterator[tuple[str, Expected]]:
    columns = ack.columns
    assert columns is not None
    for row, user in enumerate(columns.user_ids):
        best = int(columns.actions[row].argmax())
        items = [(str(i), float(s)) for i, s in zip(columns.item_ids[row], columns.item_scores[row], strict=True) if i]
        yield (
            user.removeprefix(PREFIX),
            Expected(
                tuple(item for item, _ in items),
                tuple(score for _, score in items),
                columns.action_names[best],
                float(columns.actions[row, best]),
            ),
        )
