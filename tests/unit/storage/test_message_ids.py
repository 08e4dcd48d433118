"""The window of message ids: the larger of a time and a number per user, forgotten little by little."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from store_rows import Row, event_rows, message_keys

from nextact_server.storage.message_ids import MessageIds
from nextact_server.storage.runs import runs_of


def add(ids: MessageIds, *rows: Row) -> None:
    events = event_rows(rows)
    ids.add(runs_of(events.user), events)


def remembered(ids: MessageIds, rows: list[Row]) -> list[bool]:
    return (ids.outcomes(message_keys([(row.user, row.message) for row in rows])) != 0).tolist()


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=30),
    st.integers(0, 6),
    st.integers(0, 20),
)
@settings(max_examples=80, deadline=None)
def test_an_id_is_remembered_as_long_as_time_or_number_asks_and_forgotten_after(
    groups: list[list[int]], per_user: int, window_us: int
) -> None:
    ids, rows = MessageIds(window_us, per_user), []
    for now, users in enumerate(groups):
        fresh = [Row(user, f"{now}-{i}", received_us=now) for i, user in enumerate(users)]
        rows += fresh
        add(ids, *fresh)
        by_user: dict[int, list[Row]] = {}
        for row in rows:
            by_user.setdefault(row.user, []).append(row)
        recent = {row for mine in by_user.values() for row in mine[len(mine) - min(per_user, len(mine)) :]}
        # Groups this small are pruned in full with every commit.
        assert remembered(ids, rows) == [row in recent or now - row.received_us <= window_us for row in rows]
    assert len(ids) == sum(remembered(ids, rows))


def test_one_commit_forgets_a_bounded_number_and_later_ones_catch_up() -> None:
    ids = MessageIds(10, 1)
    old = [Row(0, f"old{i}", received_us=0) for i in range(1000)]
    add(ids, *old)
    add(ids, Row(1, "later", received_us=100))
    assert 900 < len(ids) < 1000
    for n in range(40):
        add(ids, Row(1, f"later{n}", received_us=101))
    assert remembered(ids, old) == [False] * 999 + [True]


def test_users_who_went_silent_are_pruned_in_their_turn() -> None:
    ids = MessageIds(10, 1)
    silent = [Row(user, f"{user}-{i}", received_us=0) for user in range(500) for i in range(2)]
    add(ids, *silent)
    for n in range(60):
        add(ids, Row(500, f"n{n}", received_us=100))
    assert remembered(ids, silent) == [False, True] * 500


def test_slots_of_forgotten_ids_are_used_again() -> None:
    ids = MessageIds(0, 2)
    for now in range(2000):
        add(ids, Row(now % 3, f"m{now}", received_us=now))
    assert len(ids) == 6
    assert ids._slots.high_water < 20


def test_erasing_a_user_leaves_the_others_and_lets_the_user_come_back() -> None:
    ids = MessageIds(10, 10)
    mine, others = [Row(3, f"m{i}") for i in range(5)], [Row(1, f"o{i}") for i in range(5)]
    add(ids, *(row for pair in zip(mine, others, strict=True) for row in pair))
    ids.erase(3)
    ids.erase(3)
    ids.erase(10_000)
    assert remembered(ids, mine + others) == [False] * 5 + [True] * 5
    add(ids, *mine)
    assert remembered(ids, mine + others) == [True] * 10
    assert not np.isin(message_keys([(3, "never")]), ids._keys).any()
