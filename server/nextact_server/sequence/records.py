"""From a batch's columns to the model's rows, and from what became of them to the rows of the store."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nextact_server.sequence.engine import StepRows
from nextact_server.sequence.merge import Merged
from nextact_server.sequence.outputs import Touched
from nextact_server.storage.seam import EventRows


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of each event of a batch; `status`, `original` int8[n] and `applied` bool[n] are filled in place.

    `repeats` int64[m] are rows whose message id an earlier row of the batch, `firsts` int64[m], has too.
    """

    status: NDArray[np.int8]
    original: NDArray[np.int8]
    applied: NDArray[np.bool_]
    repeats: NDArray[np.int64]
    firsts: NDArray[np.int64]


def repeated(keys: NDArray[np.uint64], rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of the given rows (ascending), those whose key [n, 2] an earlier one has, and the first that has it."""
    if len(rows) < 2:
        return rows[:0], rows[:0]
    chosen = keys[rows]
    order = np.argsort(chosen[:, 0], kind="stable")
    if (np.diff(chosen[order, 0]) != 0).all():
        return rows[:0], rows[:0]
    order = np.lexsort((np.arange(len(rows)), chosen[:, 1], chosen[:, 0]))
    ordered = chosen[order]
    same = np.zeros(len(rows), np.bool_)
    same[1:] = (ordered[1:] == ordered[:-1]).all(axis=1)
    first = order[np.maximum.accumulate(np.where(same, 0, np.arange(len(rows))))]
    return rows[order[same]], rows[first[same]]


def step_rows(merged: Merged, rows: NDArray[np.int64], lane: NDArray[np.int64], active: NDArray[np.bool_]) -> StepRows:
    """The given rows (ascending) of a batch as the model needs them."""
    whole = len(rows) == len(merged)
    content_rows, content = merged.content_rows, merged.content
    if len(content_rows) and not whole:
        inside = np.isin(content_rows, rows)
        content_rows, content = np.searchsorted(rows, content_rows[inside]), content[inside]
    return StepRows(
        lane=lane,
        active=active,
        event_time=merged.event_time if whole else merged.event_time[rows],
        action=merged.action if whole else merged.action[rows],
        item_key=merged.item_key if whole else merged.item_key[rows],
        has_item=merged.has_item if whole else merged.has_item[rows],
        content_rows=content_rows,
        content=content,
    )


def event_rows(merged: Merged, touched: Touched, recorded: NDArray[np.int64], verdict: Verdict) -> EventRows:
    """The rows of the store for the recorded ones, positions int64[r] in `touched`."""
    rows = touched.rows[recorded]
    timeline = touched.stepped.timeline
    # Mostly every row of a batch is recorded: then there is nothing to pick.
    every: NDArray[np.int64] | slice = slice(None) if len(rows) == len(merged) else rows
    at: NDArray[np.int64] | slice = slice(None) if len(recorded) == len(touched.rows) else recorded
    has_item = merged.has_item[every]
    return EventRows(
        user=touched.users[touched.lane[at]],
        user_key=merged.user_key[every],
        message_key=merged.message_key[every],
        status=verdict.status[every],
        applied=touched.stepped.applied[at],
        event_time_us=merged.event_time[every],
        effective_time_us=timeline.effective[at],
        gap_us=timeline.gap[at],
        sent_at_us=merged.sent_at(rows),
        received_us=merged.received(rows),
        item_key=np.where(has_item[:, None], merged.item_key[every], np.uint64(0)),
        has_item=has_item,
        action_code=merged.action[every].astype(np.int32),
        content_hash=merged.content_hash[every],
        columns=merged.raw(rows),
    )


def contents(merged: Merged, recorded: NDArray[np.int64]) -> dict[bytes, NDArray[np.float32]]:
    """Vectors by hash of the texts and images that recorded rows bring, to be kept as long as the rows."""
    if not len(merged.content_rows):
        return {}
    kept = np.isin(merged.content_rows, recorded)
    return {
        merged.content_hash[row].tobytes(): vector
        for row, vector in zip(merged.content_rows[kept].tolist(), merged.content[kept], strict=True)
    }
