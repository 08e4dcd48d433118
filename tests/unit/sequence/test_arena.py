"""The state arena against a dict: nobody's state is lost, mixed up or left behind."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from nextact_server.sequence.arena import NO_TIME, NOWHERE, StateArena, UserStates

SPEC = {"h": (3,), "c": (2,)}
CAPACITY = 6
USERS = st.lists(st.integers(0, 30), min_size=1, max_size=CAPACITY, unique=True)


def arena(capacity: int = CAPACITY) -> StateArena:
    return StateArena(SPEC, capacity, torch.device("cpu"))


def ints(values: Sequence[int]) -> np.ndarray:
    return np.array(values, np.int64)


def states(values: Sequence[float]) -> UserStates:
    """A recognisable state for each value."""
    column = torch.tensor(list(values), dtype=torch.float32)[:, None]
    return UserStates(
        tensors={name: column.expand(-1, *shape).clone() for name, shape in SPEC.items()},
        events_seen=ints([int(value) for value in values]),
        last_time=ints([int(value) * 10 for value in values]),
    )


def values_of(got: UserStates) -> list[int]:
    """The values that `states` was given, once everything in the states agrees on them."""
    for name in SPEC:
        assert (got.tensors[name] == torch.from_numpy(got.events_seen)[:, None]).all()
    np.testing.assert_array_equal(got.last_time, got.events_seen * 10)
    return got.events_seen.tolist()


class ArenaModel(RuleBasedStateMachine):
    """Users come, change and go as under a stage; a dict holds what must be there."""

    def __init__(self) -> None:
        super().__init__()
        self.arena = arena()
        self.held: dict[int, int] = {}
        self.group_of: dict[int, int] = {}
        self.used: dict[int, int] = {}
        self.tick = 0
        self.group = 0
        self.durable = 0
        self.number = 0

    def _use(self, users: Sequence[int]) -> None:
        self.tick += 1
        for user in users:
            if user in self.held:
                self.used[user] = self.tick

    @rule(users=USERS, change=st.booleans())
    def bring_and_change(self, users: list[int], change: bool) -> None:
        rows = self.arena.rows(ints(users))
        self._use(users)
        assert [row != NOWHERE for row in rows] == [user in self.held for user in users]
        newcomers = [user for user in users if user not in self.held]
        free = CAPACITY - len(self.held)
        may_go = [u for u in self.held if self.used[u] < self.tick and self.group_of[u] <= self.durable]
        if free + len(may_go) < len(newcomers):
            with pytest.raises(ValueError, match="resident_users"):
                self.arena.room_for(len(newcomers), self.durable)
            return
        evicted = self.arena.room_for(len(newcomers), self.durable)
        assert (evicted is None) == (len(newcomers) <= free)
        if evicted is not None:
            gone = evicted.users.tolist()
            assert set(gone) <= set(may_go)
            assert values_of(evicted.states) == [self.held[user] for user in gone]
            kept = [user for user in may_go if user not in gone]
            assert not kept or max(self.used[u] for u in gone) <= min(self.used[u] for u in kept), "LRU leaves first"
            self.arena.drop(evicted.users)
            for user in gone:
                del self.held[user], self.group_of[user], self.used[user]
        if newcomers:
            fresh = list(range(self.number + 1, self.number + 1 + len(newcomers)))
            self.number += len(newcomers)
            rows[rows == NOWHERE] = self.arena.admit(ints(newcomers), states(fresh))
            for user, value in zip(newcomers, fresh, strict=True):
                self.held[user], self.group_of[user], self.used[user] = value, 0, self.tick
        assert values_of(self.arena.gather(rows)) == [self.held[user] for user in users]
        if change:
            self.group += 1
            changed = list(range(self.number + 1, self.number + 1 + len(users)))
            self.number += len(users)
            self.arena.scatter(rows, states(changed), self.group)
            for user, value in zip(users, changed, strict=True):
                self.held[user], self.group_of[user] = value, self.group

    @rule()
    def all_becomes_durable(self) -> None:
        self.durable = self.group

    @rule(users=st.lists(st.integers(0, 30), max_size=4))
    def drop(self, users: list[int]) -> None:
        self.arena.drop(ints(users))
        for user in users:
            self.held.pop(user, None)

    @rule()
    def drop_what_is_not_durable(self) -> None:
        lost = [user for user in self.held if self.group_of[user] > self.durable]
        assert self.arena.drop_after(self.durable) == len(lost)
        for user in lost:
            del self.held[user]

    @invariant()
    def everyone_is_there_with_their_own_state(self) -> None:
        assert len(self.arena) == len(self.held)
        users = list(self.held)
        if users:
            rows = self.arena.rows(ints(users))
            self._use(users)
            assert len(set(rows.tolist())) == len(users)
            assert values_of(self.arena.gather(rows)) == [self.held[user] for user in users]


TestArenaModel = ArenaModel.TestCase
TestArenaModel.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_a_user_used_in_this_tick_is_never_evicted() -> None:
    room = arena(2)
    room.admit(ints([1, 2]), states([1, 2]))
    room.rows(ints([1, 3]))
    evicted = room.room_for(1, durable_group=0)
    assert evicted is not None
    assert evicted.users.tolist() == [2]


def test_a_user_whose_group_is_not_durable_is_never_evicted() -> None:
    room = arena(2)
    rows = room.admit(ints([1, 2]), states([1, 2]))
    room.scatter(rows[:1], states([5]), group=7)
    room.rows(ints([3]))
    evicted = room.room_for(1, durable_group=6)
    assert evicted is not None
    assert evicted.users.tolist() == [2]
    room.drop(evicted.users)
    room.admit(ints([3]), states([3]))
    room.rows(ints([4]))
    room.scatter(room.rows(ints([3])), states([6]), group=8)
    room.rows(ints([4]))
    with pytest.raises(ValueError, match=r"only 0 of 2 can be freed \(resident_users\)"):
        room.room_for(1, durable_group=6)
    assert values_of(room.gather(room.rows(ints([1, 3])))) == [5, 6], "a refusal changes nothing"


def test_more_users_than_the_arena_holds_are_refused_by_the_name_of_the_setting() -> None:
    with pytest.raises(ValueError, match=r"7 users in one step; the arena holds 6 \(resident_users\)"):
        arena().room_for(7, durable_group=0)


def test_nothing_of_a_dropped_user_outlives_the_row() -> None:
    room = arena()
    rows = room.admit(ints([1, 2]), states([1, 2]))
    room.drop(ints([1]))
    left = room.gather(rows[:1])
    assert all(not tensor.any() for tensor in left.tensors.values())
    assert left.events_seen.tolist() == [0]
    assert left.last_time.tolist() == [NO_TIME]
    assert room.rows(ints([1, 2])).tolist() == [NOWHERE, rows[1]]


def test_dropping_a_user_twice_at_once_frees_one_row() -> None:
    room = arena(2)
    room.admit(ints([1, 2]), states([1, 2]))
    room.drop(ints([1, 1]))
    assert len(room) == 1
    rows = room.admit(ints([5]), states([5]))
    assert values_of(room.gather(np.concatenate([rows, room.rows(ints([2]))]))) == [5, 2]


def test_users_never_heard_of_can_be_dropped() -> None:
    room = arena()
    room.drop(ints([10**6]))
    assert len(room) == 0


def test_ordinals_far_beyond_the_capacity_find_their_rows() -> None:
    room = arena()
    room.rows(ints([10**6]))
    rows = room.admit(ints([10**6]), states([4]))
    assert room.rows(ints([10**6, 5])).tolist() == [rows[0], NOWHERE]


def test_taking_and_putting_states_touches_no_others() -> None:
    whole = states([1, 2, 3])
    assert values_of(whole.take(ints([2, 0]))) == [3, 1]
    assert values_of(whole.put(ints([1]), states([9]))) == [1, 9, 3]
    assert values_of(whole) == [1, 2, 3]
