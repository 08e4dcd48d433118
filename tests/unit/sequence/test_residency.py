"""Users leave the arena and come back, by eviction or after a failure, as if they had never left."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_model import CELLS, CellName, content_vector
from stage_house import MODEL_KEY, Asked, House, Sent, assert_same_user, key_of

from nextact_server.events.status import Status
from nextact_server.sequence.index import IndexItem

USERS = ("a", "b", "c", "d", "e", "f")

sent = st.builds(
    Sent,
    user=st.sampled_from(USERS),
    seconds=st.integers(-300, 300),
    action=st.sampled_from(["view", "buy", "never-seen"]),
    item=st.sampled_from(["", "t01", "t02", "cold", "nobody"]),
    content=st.one_of(st.none(), st.integers(1, 3)),
)


def numbered(events: list[Sent]) -> list[Sent]:
    return [replace(event, message=str(number)) for number, event in enumerate(events)]


@pytest.mark.parametrize("cell", CELLS)
@given(events=st.lists(sent, min_size=1, max_size=25), apply_late=st.booleans())
@settings(max_examples=25, deadline=None)
def test_a_user_who_was_evicted_comes_back_as_one_who_never_left(
    cell: CellName, events: list[Sent], apply_late: bool
) -> None:
    narrow = House(cell, capacity=2, apply_late=apply_late)
    wide = House(cell, apply_late=apply_late)
    cold = IndexItem("cold", content_vector(4), {}, True)
    for house in (narrow, wide):
        house.index.upsert([cold])
    for event in numbered(events):
        narrow.apply(event)
        wide.apply(event)
        assert len(narrow.arena) <= 2
    for user in USERS:
        assert_same_user(narrow, wide, user)


@given(events=st.lists(sent, min_size=1, max_size=25), cut=st.integers(0, 25))
@settings(max_examples=25, deadline=None)
def test_a_state_replayed_from_the_history_is_the_state_that_was(events: list[Sent], cut: int) -> None:
    disturbed, quiet = House(), House()
    for number, event in enumerate(numbered(events)):
        disturbed.apply(event)
        quiet.apply(event)
        if number == cut:
            disturbed.arena.drop(np.arange(len(USERS)))
    for user in USERS:
        disturbed.arena.drop(disturbed.directory.resolve(key_of(user)))
        assert_same_user(disturbed, quiet, user)


def test_a_replay_begins_where_the_stored_state_ends() -> None:
    house, quiet = House(capacity=1), House()
    for number in range(4):
        for user in ("a", "b"):
            event = Sent(user, f"{number}", seconds=number, content=number)
            house.apply(event)
            quiet.apply(event)
    stored = house.store.load_states(house.directory.find(key_of("a")), model=MODEL_KEY)
    assert stored.events_seen.tolist() == [4]
    house.apply(Sent("a", "more", seconds=9))
    quiet.apply(Sent("a", "more", seconds=9))
    house.arena.drop(house.directory.find(key_of("a")))
    assert_same_user(house, quiet, "a")


def test_a_user_never_seen_has_the_initial_state() -> None:
    house = House("lstm")
    events_seen, last_time, tensors = house.state("nobody")
    assert events_seen == 0
    assert last_time == np.iinfo(np.int64).min
    assert not any(tensor.any() for tensor in tensors.values())


def test_states_of_another_model_version_are_not_taken_for_ones_own() -> None:
    house, quiet = House(), House()
    for target in (house, quiet):
        target.apply(Sent("a", "1"), Sent("a", "2", seconds=5))
    ordinal = house.directory.find(key_of("a"))
    wrong = {"h": np.full((1, house.model.config.hidden_dim), 9, np.float32)}
    house.store.save_states(ordinal, np.array([2]), np.array([0]), wrong, model="small/2")
    house.arena.drop(ordinal)
    assert_same_user(house, quiet, "a")


def test_more_new_users_in_one_step_than_the_arena_holds_name_the_setting() -> None:
    house = House(capacity=2)
    answer = house.apply(*(Sent(user, user) for user in USERS))
    assert isinstance(answer, ValueError)
    assert "resident_users" in str(answer)
    assert house.apply(Sent("a", "a")).status.tolist() == [Status.ACCEPTED], "nothing of the refused call was kept"


class Stubborn:
    """A store in front of another that does not take the states of some users."""

    def __init__(self, inner: object, refused: set[int]) -> None:
        self._inner = inner
        self.refused = refused

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def save_states(
        self,
        users: np.ndarray,
        events_seen: np.ndarray,
        last_time_us: np.ndarray,
        states: Mapping[str, np.ndarray],
        *,
        model: str = "",
    ) -> np.ndarray:
        return ~np.isin(users, list(self.refused)) & self._inner.save_states(
            users, events_seen, last_time_us, states, model=model
        )


def test_a_user_whose_state_the_store_does_not_take_stays_and_another_leaves() -> None:
    house, quiet = House(capacity=3), House()
    for target in (house, quiet):
        for number, user in enumerate(("a", "b", "c")):
            target.apply(Sent(user, "1", seconds=number), Sent(user, "2", seconds=number + 1))
    first = int(house.directory.find(key_of("a"))[0])
    house.residency._store = Stubborn(house.store, {first})
    for target in (house, quiet):
        target.apply(Sent("d", "1"))
    residents = house.arena.rows(house.directory.find(np.concatenate([key_of(user) for user in "abcd"]))) >= 0
    assert residents.tolist() == [True, False, True, True]
    for user in "abcd":
        assert_same_user(house, quiet, user)


def test_when_no_state_is_taken_the_newcomers_are_refused_and_nobody_is_lost() -> None:
    house, quiet = House(capacity=2), House()
    for target in (house, quiet):
        target.apply(Sent("a", "1"), Sent("b", "1"))
    house.residency._store = Stubborn(house.store, {0, 1})
    answer = house.apply(Sent("c", "1"))
    assert isinstance(answer, ValueError)
    assert "resident_users" in str(answer)
    house.residency._store = house.store
    for user in "ab":
        assert_same_user(house, quiet, user)
    assert house.apply(Sent("c", "1")).status.tolist() == [Status.ACCEPTED]


def test_a_user_with_a_group_on_its_way_is_not_evicted() -> None:
    house = House(capacity=2)
    house.apply(Sent("b", "1"))
    house.store.hold()
    house.apply(Sent("a", "1"))
    answer = house.apply(Sent("c", "1"))
    assert answer.status.tolist() == [Status.ACCEPTED]
    ordinals = house.directory.find(np.concatenate([key_of(user) for user in "abc"]))
    assert (house.arena.rows(ordinals) >= 0).tolist() == [True, False, True]
    assert isinstance(house.apply(Sent("d", "1")), ValueError)
    house.store.release()
    assert house.apply(Sent("d", "1")).status.tolist() == [Status.ACCEPTED]


def test_rows_are_given_in_the_order_asked() -> None:
    house = House(capacity=4)
    for number, user in enumerate("abc"):
        house.apply(*(Sent(user, str(at), seconds=at) for at in range(number + 1)))
    ordinals = house.directory.find(np.concatenate([key_of(user) for user in "cab"]))
    house.arena.drop(ordinals[1:2])
    rows = house.residency.bring(ordinals, house.journal.durable)
    states = house.arena.gather(rows)
    assert states.events_seen.tolist() == [3, 1, 2]
    assert all(torch.isfinite(tensor).all() for tensor in states.tensors.values())


class Untold:
    """A store in front of another that tells nothing of users' states and pasts."""

    def __init__(self, inner: object) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> object:
        assert name not in ("replay", "load_states")
        return getattr(self._inner, name)


@pytest.mark.parametrize("held", [False, True])
def test_a_user_who_is_not_resident_is_erased_without_being_read(held: bool) -> None:
    house = House(capacity=1)
    house.apply(Sent("a", "1"), Sent("a", "2", seconds=1))
    house.apply(Sent("b", "1"))
    house.residency._store = Untold(house.store)
    if held:
        house.store.hold()
    house.run(house.erase("a"))
    assert house.state("a")[0] == 0, "while the erasure is on its way too"
    house.store.release()
    house.run(house.work(Asked(())))
    assert house.state("a")[0] == 0
    house.residency._store = house.store
    assert house.state("b")[0] == 1


def test_a_user_whose_erasure_fails_has_the_past_again() -> None:
    house, quiet = House(capacity=1), House()
    for target in (house, quiet):
        target.apply(Sent("a", "1"), Sent("a", "2", seconds=1))
        target.apply(Sent("b", "1"))
    house.store.hold()
    house.store.fail_commit(1)
    house.run(house.erase("a"))
    house.store.release()
    house.run(house.work(Asked(())))
    for user in "ab":
        assert_same_user(house, quiet, user)
