"""Which predictions a batch owes, and their columns."""

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nextact_server.events.call import CallOptions, Per, Predictions, Want
from nextact_server.events.status import is_recorded
from nextact_server.sequence.config import FIRST_ITEM, UNKNOWN_ITEM
from nextact_server.sequence.engine import SequenceEngine, Stepped
from nextact_server.sequence.heads import ItemRequest, action_scores, next_items, read, wants_query
from nextact_server.sequence.index import item_rows
from nextact_server.sequence.merge import Merged
from nextact_server.sequence.next_event import next_event
from nextact_server.storage.seam import Store

WANT_ACTIONS, WANT_ITEMS, WANT_NEXT = int(Want.ACTIONS), int(Want.ITEMS), int(Want.NEXT)
STATELESS = -1
"""Ordinal of a user whose past the caller brought."""


@dataclass(frozen=True, slots=True)
class Touched:
    """The rows of a batch that belong to a user: `rows` int64[m] of the batch, and their `lane` int64[m] in the step.

    `users` int64[L] are the lanes' ordinals, negative for users that the store knows nothing of.
    """

    rows: NDArray[np.int64]
    lane: NDArray[np.int64]
    users: NDArray[np.int64]
    stepped: Stepped


class SeenItems:
    """Index rows of the items in users' stored histories, read from the store once and then only what is new.

    Bounded in users; the least recently asked leave.
    """

    def __init__(self, engine: SequenceEngine, store: Store, max_users: int) -> None:
        self._engine = engine
        self._store = store
        self._max_users = max_users
        self._rows: OrderedDict[int, tuple[NDArray[np.int64], int, int]] = OrderedDict()
        self._erasing: dict[int, Future[None]] = {}

    def of(self, user: int) -> NDArray[np.int64]:
        """Rows int64[m] of a user's stored items, the reserved rows possibly among them."""
        if user < 0 or self._is_erasing(user):
            return np.zeros(0, np.int64)
        index = self._engine.index
        rows, position, size = self._rows.pop(user, (np.zeros(0, np.int64), -1, 0))
        if size != index.size and UNKNOWN_ITEM in rows[:1]:
            rows, position = rows[:0], -1  # an item that was unknown may be in the index by now
        keys, position = self._store.seen_items(user, position)
        if len(keys):
            rows = np.union1d(rows, index.lookup(keys))
        self._rows[user] = rows, position, index.size
        if len(self._rows) > self._max_users:
            self._rows.popitem(last=False)
        return rows

    def forget(self, users: Sequence[int] | None = None, erased: "Future[None] | None" = None) -> None:
        """Forgets the given users, or all. Until `erased` is done, what the store still holds of them is not seen."""
        if users is None:
            self._rows.clear()
            self._erasing.clear()
            return
        self._let_go()
        for user in users:
            self._rows.pop(user, None)
            self._erasing.pop(user, None)
            if erased is not None and not erased.done():
                self._erasing[user] = erased

    def _is_erasing(self, user: int) -> bool:
        erased = self._erasing.get(user)
        return erased is not None and not erased.done()

    def _let_go(self) -> None:
        """Forgets the erasures that are done: the oldest, for groups become durable in order."""
        while self._erasing and self._erasing[oldest := next(iter(self._erasing))].done():
            del self._erasing[oldest]


class Reader:
    """Reads predictions from a step: the heads are asked once for the whole batch, and only for what is wanted."""

    def __init__(self, engine: SequenceEngine, seen: SeenItems, exclude_seen_default: bool) -> None:
        self._engine = engine
        self._seen = seen
        self._exclude_seen_default = exclude_seen_default

    def predictions(self, merged: Merged, touched: Touched, status: NDArray[np.int8]) -> Predictions | None:
        """The predictions of all calls, in the numbers of the batch; None where none are asked for."""
        at = self._due(merged, touched, status)
        if not len(at):
            return None
        stepped, lane, rows = touched.stepped, touched.lane[at], touched.rows[at]
        count = stepped.rank[at]
        hidden = stepped.hidden_at(lane, count)
        calls = merged.call[rows]
        options = [merged.calls[call].options for call in calls.tolist()]
        wanted = 0
        for want in {option.want for option in options}:
            wanted |= want
        model = self._engine.model
        reading = read(model, hidden, stepped.recent_at(lane, count)) if wants_query(wanted) else None
        predictions = Predictions(
            call=calls,
            row=rows,
            events_seen=stepped.states.events_seen[lane] - np.diff(stepped.ends)[lane] + count,
            embedding=None if reading is None else reading.query.cpu().numpy(),
            actions=action_scores(self._engine.model, hidden) if wanted & WANT_ACTIONS else None,
            next=next_event(model, hidden, merged, rows, stepped.timeline.effective[at])
            if wanted & WANT_NEXT
            else None,
        )
        if not wanted & WANT_ITEMS:
            return predictions
        assert reading is not None
        ranked = np.flatnonzero([option.want & WANT_ITEMS for option in options])
        kept = is_recorded(status[touched.rows])
        requests = [self._request(merged, touched, kept, int(at[i]), options[i]) for i in ranked.tolist()]
        best, scores = next_items(self._engine.index, reading.take(ranked), requests)
        item_columns = np.full((len(at), best.shape[1]), -1, np.int64)
        score_columns = np.full((len(at), best.shape[1]), -np.inf, np.float32)
        item_columns[ranked], score_columns[ranked] = best, scores
        return replace(predictions, item_rows=item_columns, item_scores=score_columns)

    def seen(self, user: int, exclude_seen: bool | None) -> NDArray[np.int64] | None:
        """Index rows that count as seen by a user for a wish of exclude_seen; None: none do."""
        excluded = self._exclude_seen_default if exclude_seen is None else exclude_seen
        return self._seen.of(user) if excluded else None

    def _due(self, merged: Merged, touched: Touched, status: NDArray[np.int8]) -> NDArray[np.int64]:
        """Positions in `touched` after which a prediction is due, ordered by call and first appearance of the user."""
        per = np.array([call.options.per.value for call in merged.calls], np.int64)[merged.call[touched.rows]]
        if not per.any():
            return np.zeros(0, np.int64)
        by_event = np.flatnonzero((per == Per.EVENT.value) & is_recorded(status[touched.rows]))
        by_user = np.flatnonzero(per == Per.USER.value)
        calls = merged.call[touched.rows[by_user]]
        if len(by_user) and not (calls[1:] > calls[:-1]).all():
            pair = calls * np.int64(len(touched.users)) + touched.lane[by_user]
            _, first, inverse = np.unique(pair, return_index=True, return_inverse=True)
            last = np.zeros(len(first), np.int64)
            np.maximum.at(last, inverse.reshape(-1), np.arange(len(pair)))
            by_user = by_user[last[np.argsort(first)]]
        if not len(by_event):
            return by_user
        if not len(by_user):
            return by_event
        due = np.concatenate([by_user, by_event])
        return due[np.argsort(merged.call[touched.rows[due]], kind="stable")]

    def _request(
        self, merged: Merged, touched: Touched, kept: NDArray[np.bool_], at: int, options: CallOptions
    ) -> ItemRequest:
        lane = int(touched.lane[at])
        seen = self.seen(int(touched.users[lane]), options.filter.exclude_seen)
        if seen is not None:
            # What this very batch recorded of the user is history too, though the store does not have it yet.
            same = touched.rows[: at + 1][(touched.lane[: at + 1] == lane) & kept[: at + 1]]
            now = item_rows(self._engine.index, merged.item_key[same], merged.has_item[same])
            seen = np.concatenate([seen, now[now >= FIRST_ITEM]])
        return ItemRequest(top_k=options.top_k, filter=options.filter, seen=seen)


def split(predictions: Predictions | None, merged: Merged) -> list[Predictions | None]:
    """The predictions of each arrival, in its own numbers."""
    if predictions is None:
        return [None] * len(merged.arrivals)
    if len(merged.arrivals) == 1:
        return [predictions]
    bounds = np.searchsorted(predictions.call, merged.first_call)
    return [
        _part(predictions, start, stop, int(merged.first_call[at]), int(merged.offsets[at])) if stop > start else None
        for at, (start, stop) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))
    ]


def _part(whole: Predictions, start: int, stop: int, first_call: int, offset: int) -> Predictions:
    def cut(column: NDArray | None) -> NDArray | None:  # type: ignore[type-arg]
        return None if column is None else column[start:stop]

    return Predictions(
        call=whole.call[start:stop] - first_call,
        row=whole.row[start:stop] - offset,
        events_seen=whole.events_seen[start:stop],
        embedding=cut(whole.embedding),
        actions=cut(whole.actions),
        item_rows=cut(whole.item_rows),
        item_scores=cut(whole.item_scores),
        next=None if whole.next is None else whole.next.part(start, stop),
    )
