"""Checkpoints of user states, one table per model version."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from nextact_server.storage.growing import Slots, grown
from nextact_server.storage.seam import NO_TIME, StateColumns, StoreError


class StateTable:
    """The states that one model declared, a row for each user that has one. Not thread-safe."""

    def __init__(self, states: Mapping[str, NDArray[np.float32]]) -> None:
        """Takes names and shapes from the first states to come, each [n, ...]."""
        self._slots = Slots()
        self._slot_of = np.full(64, -1, np.int64)
        self._events_seen = np.zeros(64, np.int64)
        self._last_time_us = np.zeros(64, np.int64)
        self._states = {name: np.zeros((64, *values.shape[1:]), np.float32) for name, values in states.items()}

    def save(
        self,
        users: NDArray[np.int64],
        events_seen: NDArray[np.int64],
        last_time_us: NDArray[np.int64],
        states: Mapping[str, NDArray[np.float32]],
    ) -> None:
        """Keeps the states of n distinct users.

        Raises:
            StoreError: names or shapes are not those that the model's states had before.
        """
        shapes = {name: values.shape for name, values in states.items()}
        kept = {name: (len(users), *values.shape[1:]) for name, values in self._states.items()}
        if shapes != kept:
            raise StoreError(f"states of shapes {shapes} were given; this model's states are of shapes {kept}")
        if not len(users):
            return
        self._slot_of = grown(self._slot_of, int(users.max()) + 1, -1)
        slots = self._slot_of[users]
        new = slots < 0
        slots[new] = self._slots.take(int(new.sum()))
        self._slot_of[users] = slots
        used = self._slots.high_water
        self._events_seen, self._last_time_us = grown(self._events_seen, used), grown(self._last_time_us, used)
        self._events_seen[slots], self._last_time_us[slots] = events_seen, last_time_us
        for name, values in states.items():
            self._states[name] = grown(self._states[name], used)
            self._states[name][slots] = values

    def load(self, users: NDArray[np.int64]) -> StateColumns:
        """The states of n users."""
        slots = self._slot_of.take(users, mode="clip")
        slots[users >= len(self._slot_of)] = -1
        has = slots >= 0
        columns = {}
        for name, kept in self._states.items():
            columns[name] = np.zeros((len(users), *kept.shape[1:]), np.float32)
            columns[name][has] = kept[slots[has]]
        events_seen = np.where(has, self._events_seen.take(slots, mode="clip"), 0)
        last_time_us = np.where(has, self._last_time_us.take(slots, mode="clip"), NO_TIME)
        return StateColumns(has, events_seen, last_time_us, columns)

    def erase(self, user: int) -> None:
        """Drops the state of a user, if there is one."""
        slot = int(self._slot_of[user]) if user < len(self._slot_of) else -1
        if slot >= 0:
            self._slot_of[user] = -1
            self._events_seen[slot] = self._last_time_us[slot] = 0
            for kept in self._states.values():
                kept[slot] = 0
            self._slots.give_back(np.array([slot]))


def no_states(n: int) -> StateColumns:
    """What is loaded for n users where no state was ever saved."""
    return StateColumns(np.zeros(n, np.bool_), np.zeros(n, np.int64), np.full(n, NO_TIME), {})
