"""The message ids seen, per user, for as long as the window says.

An id is forgotten when it is both older than the window's time and behind the user's newest `per_user` ids: the window
is the larger of the two. Each user's ids are a queue, linked through one table of entries. A commit looks at the oldest
id of the users it touches and of a few others in turn, and forgets a bounded number, so no commit pays for all.
"""

import numpy as np
from numpy.typing import NDArray

from nextact_server.events.key_table import KeyTable
from nextact_server.storage.growing import Slots, grown
from nextact_server.storage.runs import Runs
from nextact_server.storage.seam import APPLIED_BIT, NO_TIME, EventRows

_PRUNED_PER_ROW = 4
"""Ids forgotten per id taken in, at most: above 1, so that what is overdue shrinks."""
_PRUNED_AT_LEAST = 64
_VISITED_IN_TURN = 64
"""Users looked at per commit beside those it touches."""


class MessageIds:
    """Message key -> what became of the event. Time is the newest `received_us` seen. Not thread-safe."""

    def __init__(self, window_us: int, per_user: int) -> None:
        self._window_us, self._per_user = window_us, per_user
        self._now_us = NO_TIME
        self._table = KeyTable()
        self._slots = Slots()
        self._keys = np.zeros((64, 2), np.uint64)
        self._received_us = np.zeros(64, np.int64)
        self._outcome = np.zeros(64, np.int8)
        self._next = np.full(64, -1, np.int64)
        self._oldest = np.full(64, -1, np.int64)
        self._newest = np.full(64, -1, np.int64)
        self._count = np.zeros(64, np.int64)
        self._turn = 0

    def __len__(self) -> int:
        return len(self._table)

    def outcomes(self, keys: NDArray[np.uint64]) -> NDArray[np.int8]:
        """Status [n], plus `APPLIED_BIT`, of messages by key [n, 2]; 0 for those not remembered."""
        slots = self._table.find(keys)
        outcomes = self._outcome.take(slots, mode="clip")
        outcomes[slots < 0] = 0
        return outcomes

    def any_known(self, keys: NDArray[np.uint64]) -> bool:
        """Whether any of these messages is remembered."""
        return bool((self._table.find(keys) >= 0).any())

    def add(self, runs: Runs, rows: EventRows) -> None:
        """Remembers the messages of a group, none of which is remembered yet, and forgets some that are overdue."""
        slots = self._slots.take(len(rows))
        self._grow(int(runs.users[-1]) + 1)
        self._table.add(rows.message_key, slots)
        self._keys[slots] = rows.message_key
        self._received_us[slots] = rows.received_us
        self._outcome[slots] = rows.status | np.where(rows.applied, APPLIED_BIT, 0).astype(np.int8)
        ordered = slots[runs.order]
        self._next[ordered[:-1]] = ordered[1:]
        last = ordered[runs.ends]
        self._next[last] = -1
        first = ordered[runs.starts]
        tails = self._newest[runs.users]
        known = tails >= 0
        self._next[tails[known]] = first[known]
        self._oldest[runs.users[~known]] = first[~known]
        self._newest[runs.users] = last
        self._count[runs.users] += runs.lengths
        self._now_us = max(self._now_us, int(rows.received_us.max()))
        self._prune(runs.users, _PRUNED_AT_LEAST + _PRUNED_PER_ROW * len(rows))

    def erase(self, user: int) -> None:
        """Forgets all ids of a user."""
        if user < len(self._count):
            self._forget(self._queue(user, int(self._count[user]), NO_TIME))
            self._oldest[user] = self._newest[user] = -1
            self._count[user] = 0

    def _prune(self, touched: NDArray[np.int64], budget: int) -> None:
        end = min(self._turn + _VISITED_IN_TURN, len(self._count))
        users = np.concatenate([touched, np.arange(self._turn, end)])
        self._turn = end % len(self._count)
        horizon = self._now_us - self._window_us
        users = users[self._count[users] > self._per_user]
        if not len(users):
            return
        for user in np.unique(users[self._received_us[self._oldest[users]] < horizon]).tolist():
            most = min(budget, int(self._count[user]) - self._per_user)
            slots = self._queue(user, most, horizon)
            self._oldest[user] = self._next[slots[-1]]
            if self._oldest[user] < 0:
                self._newest[user] = -1
            self._count[user] -= len(slots)
            self._forget(slots)
            budget -= len(slots)
            if budget <= 0:
                return

    def _queue(self, user: int, most: int, horizon: int) -> NDArray[np.int64]:
        """Up to `most` of a user's oldest ids, as far as they are older than a time (`NO_TIME`: of any age)."""
        slots: list[int] = []
        slot = int(self._oldest[user])
        while slot >= 0 and len(slots) < most and (horizon == NO_TIME or self._received_us.item(slot) < horizon):
            slots.append(slot)
            slot = self._next.item(slot)
        return np.array(slots, np.int64)

    def _forget(self, slots: NDArray[np.int64]) -> None:
        self._table.delete(self._keys[slots])
        self._keys[slots] = 0
        self._outcome[slots] = 0
        self._slots.give_back(slots)

    def _grow(self, users: int) -> None:
        entries = self._slots.high_water
        self._keys = grown(self._keys, entries)
        self._received_us = grown(self._received_us, entries)
        self._outcome = grown(self._outcome, entries)
        self._next = grown(self._next, entries, -1)
        self._oldest = grown(self._oldest, users, -1)
        self._newest = grown(self._newest, users, -1)
        self._count = grown(self._count, users)
