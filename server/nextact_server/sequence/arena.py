"""The state arena: the states of the resident users in preallocated tensors, one row per user."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

NO_TIME = np.iinfo(np.int64).min
NOWHERE = -1


@dataclass(frozen=True, slots=True)
class UserStates:
    """States of L users side by side: a row each in every tensor and column.

    `tensors` as the model's `state_spec` says, float32[L, ...]; `events_seen` int64[L], how many events made the
    state; `last_time` int64[L], the newest effective time in microseconds, NO_TIME before the first event.
    """

    tensors: Mapping[str, torch.Tensor]
    events_seen: NDArray[np.int64]
    last_time: NDArray[np.int64]

    def take(self, lanes: NDArray[np.int64]) -> "UserStates":
        """The states of some of the users, in the order asked."""
        index = torch.from_numpy(lanes)
        return UserStates(
            tensors={name: tensor[index] for name, tensor in self.tensors.items()},
            events_seen=self.events_seen[lanes],
            last_time=self.last_time[lanes],
        )

    def put(self, lanes: NDArray[np.int64], states: "UserStates") -> "UserStates":
        """These states with those of some users replaced."""
        index = torch.from_numpy(lanes)
        events_seen, last_time = self.events_seen.copy(), self.last_time.copy()
        events_seen[lanes], last_time[lanes] = states.events_seen, states.last_time
        return UserStates(
            tensors={
                name: tensor.index_copy(0, index.to(tensor.device), states.tensors[name])
                for name, tensor in self.tensors.items()
            },
            events_seen=events_seen,
            last_time=last_time,
        )


@dataclass(frozen=True, slots=True)
class Evicted:
    """Users who may leave the arena, int64[e] ordinals, with their states."""

    users: NDArray[np.int64]
    states: UserStates


class StateArena:
    """Rows of user state on one device, found by the user's ordinal; the least recently used leave first.

    No Python object exists per user. One thread owns an arena: nothing here locks.
    """

    def __init__(self, spec: Mapping[str, tuple[int, ...]], capacity: int, device: torch.device) -> None:
        self.capacity = capacity
        self._tensors = {name: torch.zeros((capacity, *shape), device=device) for name, shape in spec.items()}
        self._events_seen = np.zeros(capacity, np.int64)
        self._last_time = np.full(capacity, NO_TIME, np.int64)
        self._last_group = np.zeros(capacity, np.int64)
        self._last_used = np.zeros(capacity, np.int64)
        self._user = np.full(capacity, NOWHERE, np.int64)
        self._row = np.full(1024, NOWHERE, np.int64)
        self._free = np.arange(capacity, dtype=np.int64)
        self._free_count = capacity
        self._tick = 0

    def __len__(self) -> int:
        return self.capacity - self._free_count

    def rows(self, users: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of the given users, int64[n], NOWHERE for those not resident; counts as a use."""
        if users.size and (highest := int(users.max())) >= len(self._row):
            grown = np.full(max(highest + 1, 2 * len(self._row)), NOWHERE, np.int64)
            grown[: len(self._row)] = self._row
            self._row = grown
        rows = self._row[users]
        self._tick += 1
        self._last_used[rows[rows != NOWHERE]] = self._tick
        return rows

    def room_for(self, newcomers: int, durable_group: int) -> Evicted | None:
        """The least recently used users who must leave so that `newcomers` fit; None where they fit already.

        They are only chosen: once their states are kept, `drop` frees their rows, and `keep` holds back the others.
        Users used in this tick are never chosen, nor are those whose last group is not durable yet. Raises ValueError
        if too few are left to choose from.
        """
        if newcomers > self.capacity:
            raise ValueError(f"{newcomers} users in one step; the arena holds {self.capacity} (resident_users)")
        if newcomers <= self._free_count:
            return None
        wanted = max(newcomers - self._free_count, min(self.capacity // 16, len(self)))
        taken = np.flatnonzero(self._user != NOWHERE)
        candidates = taken[(self._last_used[taken] < self._tick) & (self._last_group[taken] <= durable_group)]
        if len(candidates) > wanted:
            candidates = candidates[np.argpartition(self._last_used[candidates], wanted - 1)[:wanted]]
        if len(candidates) < newcomers - self._free_count:
            raise ValueError(
                f"{newcomers} users need a row and only {self._free_count + len(candidates)} of {self.capacity} can be "
                "freed (resident_users)"
            )
        return Evicted(users=self._user[candidates], states=self.gather(candidates))

    def keep(self, users: NDArray[np.int64]) -> None:
        """Counts resident users as used in this tick, so that they are not chosen to leave."""
        self._last_used[self._row[users]] = self._tick

    def admit(self, users: NDArray[np.int64], states: UserStates) -> NDArray[np.int64]:
        """Gives each of the users, none of them resident, a row holding its state; returns the rows."""
        rows = self._free[self._free_count - len(users) : self._free_count].copy()
        self._free_count -= len(users)
        self._user[rows] = users
        self._row[users] = rows
        self._last_group[rows] = 0
        self._last_used[rows] = self._tick
        self._write(rows, states)
        return rows

    def gather(self, rows: NDArray[np.int64]) -> UserStates:
        """The states in the given rows, copied."""
        index = torch.from_numpy(rows)
        return UserStates(
            tensors={name: tensor[index] for name, tensor in self._tensors.items()},
            events_seen=self._events_seen[rows],
            last_time=self._last_time[rows],
        )

    def scatter(self, rows: NDArray[np.int64], states: UserStates, group: int) -> None:
        """Writes states back into their rows, as made by the commit group `group`."""
        self._write(rows, states)
        self._last_group[rows] = group

    def drop(self, users: NDArray[np.int64]) -> None:
        """Forgets the given users' states without saving them."""
        known = users[users < len(self._row)]
        rows = np.unique(self._row[known])
        self._release(rows[rows != NOWHERE])

    def drop_after(self, durable_group: int) -> int:
        """Forgets every user touched by a group after `durable_group`; returns how many."""
        rows = np.flatnonzero((self._user != NOWHERE) & (self._last_group > durable_group))
        self._release(rows)
        return len(rows)

    def _write(self, rows: NDArray[np.int64], states: UserStates) -> None:
        index = torch.from_numpy(rows)
        for name, tensor in self._tensors.items():
            tensor[index] = states.tensors[name]
        self._events_seen[rows] = states.events_seen
        self._last_time[rows] = states.last_time

    def _release(self, rows: NDArray[np.int64]) -> None:
        index = torch.from_numpy(rows)
        for tensor in self._tensors.values():
            tensor[index] = 0.0  # nothing of a user outlives the row
        self._events_seen[rows] = 0
        self._last_time[rows] = NO_TIME
        self._row[self._user[rows]] = NOWHERE
        self._user[rows] = NOWHERE
        self._last_group[rows] = 0
        self._free[self._free_count : self._free_count + len(rows)] = rows
        self._free_count += len(rows)
