"""What is known of each user, by ordinal: three numbers and no Python object."""

import numpy as np
from numpy.typing import NDArray

from nextact_server.storage.growing import grown
from nextact_server.storage.runs import Runs
from nextact_server.storage.seam import NO_TIME, UserColumns


class UserTable:
    """Events seen, newest effective time and newest history row of every user. Not thread-safe."""

    def __init__(self) -> None:
        self._events_seen = np.zeros(0, np.int64)
        self._last_time_us = np.zeros(0, np.int64)
        self._newest_row = np.zeros(0, np.int64)

    def columns(self, users: NDArray[np.int64]) -> UserColumns:
        """What is known of n users, those never seen included."""
        self._hold(users)
        return UserColumns(self._events_seen[users], self._last_time_us[users], self._newest_row[users] >= 0)

    def events_seen(self, users: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many events of each user were applied."""
        self._hold(users)
        return self._events_seen[users]

    def newest(self, user: int) -> tuple[int, int]:
        """A user's newest history row (-1: none) and how many events were applied."""
        if not 0 <= user < len(self._newest_row):
            return -1, 0
        return int(self._newest_row[user]), int(self._events_seen[user])

    def link(self, runs: Runs, first_row: int) -> NDArray[np.int64]:
        """For each row of a group, the history row of its user before it (-1: none); row i will be first_row + i."""
        self._hold(runs.users)
        before = np.empty(len(runs.order), np.int64)
        before[1:] = runs.order[:-1] + first_row
        before[runs.starts] = self._newest_row[runs.users]
        previous = np.empty(len(before), np.int64)
        previous[runs.order] = before
        return previous

    def record(
        self, runs: Runs, applied: NDArray[np.bool_], effective_time_us: NDArray[np.int64], first_row: int
    ) -> None:
        """Counts the n rows of a group that is in the history from first_row on; columns [n] as in `EventRows`."""
        users = runs.users
        self._events_seen[users] += np.add.reduceat(applied[runs.order].astype(np.int64), runs.starts)
        newest = np.maximum.reduceat(effective_time_us[runs.order], runs.starts)
        self._last_time_us[users] = np.maximum(self._last_time_us[users], newest)
        self._newest_row[users] = runs.order[runs.ends] + first_row

    def erase(self, user: int) -> None:
        """Makes a user one never seen."""
        if user < len(self._newest_row):
            self._events_seen[user], self._last_time_us[user], self._newest_row[user] = 0, NO_TIME, -1

    def _hold(self, users: NDArray[np.int64]) -> None:
        if len(users) == 0:
            return
        if int(users.min()) < 0:
            raise ValueError(f"user ordinal {int(users.min())} is negative: resolve the user first")
        top = int(users.max()) + 1
        if top > len(self._newest_row):
            self._events_seen = grown(self._events_seen, top)
            self._last_time_us = grown(self._last_time_us, top, NO_TIME)
            self._newest_row = grown(self._newest_row, top, -1)
