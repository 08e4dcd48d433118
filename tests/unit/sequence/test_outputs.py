"""Which predictions are due after a batch, and what counts as seen."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_model import content_vector
from stage_house import Asked, House, Sent, arrival_of, key_of

from nextact_server.events.call import CallOptions, Filter, Per, Predictions, Want
from nextact_server.events.status import Status
from nextact_server.sequence.config import FIRST_ITEM
from nextact_server.sequence.index import IndexItem
from nextact_server.sequence.merge import merge
from nextact_server.sequence.outputs import SeenItems, split
from nextact_server.sequence.stage import EventWork

NOTHING = CallOptions(per=Per.NOTHING)
BY_USER = CallOptions(per=Per.USER)
BY_EVENT = CallOptions(per=Per.EVENT)


def due(*asked: Asked) -> list[tuple[int, int]]:
    """(call, row) of the predictions of an arrival."""
    predictions = House().send(*asked).predictions
    return [] if predictions is None else list(zip(predictions.call.tolist(), predictions.row.tolist(), strict=True))


def events(*users: str, first: int = 0) -> tuple[Sent, ...]:
    return tuple(Sent(user, f"m{number}") for number, user in enumerate(users, start=first))


def test_none_are_due_where_none_are_asked_for() -> None:
    assert due(Asked(events("a", "b"), NOTHING)) == []


def test_each_user_gets_one_after_the_last_event_in_order_of_first_appearance() -> None:
    assert due(Asked(events("b", "a", "b", "c", "a"), BY_USER)) == [(0, 2), (0, 4), (0, 3)]


def test_each_recorded_event_gets_one_where_that_is_asked() -> None:
    calls = (Sent("b", "1"), Sent("a", "1"), Sent("b", "1"), Sent("", "2"), Sent("a", "3", seconds=301), Sent("a", "4"))
    assert due(Asked(calls, BY_EVENT)) == [(0, 0), (0, 1), (0, 5)]


def test_calls_of_one_batch_get_what_each_of_them_asked() -> None:
    asked = [
        Asked(events("a", "b", first=0), BY_EVENT),
        Asked(events("a", first=10), NOTHING),
        Asked(events("b", "a", "b", first=20), BY_USER),
        Asked((), BY_USER),
        Asked(events("c", "c", first=30), BY_EVENT),
    ]
    assert due(*asked) == [(0, 0), (0, 1), (2, 5), (2, 4), (4, 6), (4, 7)]


def test_a_user_of_invalid_and_duplicate_events_only_still_gets_one() -> None:
    house = House()
    house.apply(Sent("a", "1"))
    predictions = house.apply(Sent("a", "1"), Sent("b", "2", seconds=301)).predictions
    assert predictions.row.tolist() == [0, 1]
    assert predictions.events_seen.tolist() == [1, 0]


def test_an_event_without_a_user_gets_none() -> None:
    assert due(Asked((Sent("", "1"), Sent("a", "2")), BY_USER)) == [(0, 1)]


def test_a_prediction_holds_after_its_own_event_and_not_after_later_ones_of_the_batch() -> None:
    grouped, singly = House(), House()
    rows = [Sent("a", str(number), seconds=number, item=f"t0{number}", content=number) for number in range(4)]
    together = grouped.send(*(Asked((row,), BY_USER) for row in rows)).predictions
    for at, row in enumerate(rows):
        alone = singly.apply(row).predictions
        assert together.events_seen[at] == alone.events_seen[0] == at + 1
        np.testing.assert_allclose(together.embedding[at], alone.embedding[0], rtol=0, atol=1e-5)
        np.testing.assert_allclose(together.actions[at], alone.actions[0], rtol=0, atol=1e-5)
        assert together.item_rows[at].tolist() == alone.item_rows[0].tolist()


def test_only_what_some_call_wants_is_computed() -> None:
    house = House()
    for want, wanted in [
        (Want.EMBEDDING, (True, False, False)),
        (Want.ACTIONS, (False, True, False)),
        (Want.ITEMS, (True, False, True)),
        (Want.NEXT, (False, False, False)),
    ]:
        got = house.send(Asked((Sent("a", f"{want}"),), CallOptions(want=want))).predictions
        assert (got.embedding is not None, got.actions is not None, got.item_rows is not None) == wanted


def test_calls_of_different_top_k_get_each_their_own_padded_to_the_largest() -> None:
    asked = [Asked((Sent(user, "1"),), CallOptions(top_k=k)) for user, k in (("a", 2), ("b", 5), ("c", 1))]
    columns = House().send(*asked).predictions
    assert columns.item_rows.shape == (3, 5)
    assert (columns.item_rows >= 0).sum(axis=1).tolist() == [2, 5, 1]


def test_items_are_ranked_for_the_calls_that_want_them_only() -> None:
    asked = [
        Asked((Sent("a", "1"),), CallOptions(want=Want.ACTIONS, top_k=9)),
        Asked((Sent("b", "1"),), CallOptions(want=Want.ITEMS, top_k=3)),
    ]
    columns = House().send(*asked).predictions
    assert columns.item_rows.shape == (2, 3)
    assert (columns.item_rows[0] == -1).all()
    assert (columns.item_rows[1] >= FIRST_ITEM).all()


def items_of(house: House, user: str, **options: object) -> set[str]:
    answer = house.send(Asked((Sent(user, "again"), Sent(user, "again")), CallOptions(top_k=100, **options)))
    rows = answer.predictions.item_rows[0]
    return set(house.index.ids(rows[rows >= 0]))


def test_what_this_very_batch_recorded_is_excluded_as_seen() -> None:
    house = House()
    answer = house.send(
        Asked((Sent("a", "1", item="t01"), Sent("a", "2", seconds=301, item="t02")), CallOptions(top_k=100)),
        Asked((Sent("a", "3", item="t03"), Sent("b", "1", item="t04")), CallOptions(top_k=100)),
    )
    found = [set(house.index.ids(rows[rows >= 0])) for rows in answer.predictions.item_rows]
    missing = [{f"t{number:02}" for number in range(12)} - names for names in found]
    assert missing == [{"t01"}, {"t01", "t03"}, {"t04"}]


def test_every_event_excludes_the_items_up_to_it_and_none_that_come_later() -> None:
    house = House()
    rows = tuple(Sent("a", str(number), item=f"t0{number}") for number in range(3))
    answer = house.send(Asked(rows, CallOptions(top_k=100, per=Per.EVENT)))
    found = [set(house.index.ids(row[row >= 0])) for row in answer.predictions.item_rows]
    assert [{"t00", "t01", "t02"} - names for names in found] == [{"t00"}, {"t00", "t01"}, {"t00", "t01", "t02"}]


def test_what_was_seen_is_ranked_where_the_caller_wants_it() -> None:
    house = House()
    house.apply(Sent("a", "1", item="t01"))
    assert "t01" not in items_of(house, "a")
    assert "t01" in items_of(house, "a", filter=Filter(exclude_seen=False))
    assert "t01" in items_of(house, "b")


def test_an_item_seen_before_it_was_registered_counts_as_seen_afterwards() -> None:
    house = House()
    house.apply(Sent("a", "1", item="later"))
    assert "later" not in items_of(house, "a")
    house.index.upsert([IndexItem("later", content_vector(1), {}, True)])
    assert "later" not in items_of(house, "a")
    assert "later" in items_of(house, "b")


histories = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from(["t01", "t02", "t03", "x", "y", ""]), st.booleans()), max_size=15
)


@given(steps=histories, max_users=st.sampled_from([1, 8]))
@settings(max_examples=40, deadline=None)
def test_seen_items_read_bit_by_bit_are_those_read_from_scratch(steps: list, max_users: int) -> None:
    house = House(seen_users=max_users)
    wanted: dict[str, set[str]] = {"a": set(), "b": set()}
    for number, (user, item, register) in enumerate(steps):
        if register and item in ("x", "y"):
            house.index.upsert([IndexItem(item, None, {}, True)])
        house.send(Asked((Sent(user, str(number), item=item),), NOTHING))
        wanted[user] |= {item} - {""}
        ordinal = int(house.directory.find(key_of(user))[0])
        got = house.seen.of(ordinal)
        scratch = SeenItems(house.engine, house.store, 1).of(ordinal)
        assert got.tolist() == scratch.tolist()
        known = {name for name in wanted[user] if house.index.rows_of([name])[0] >= FIRST_ITEM}
        assert {name for name in house.index.ids(got) if name} == known


def test_seen_items_of_nobody_are_none() -> None:
    assert House().seen.of(-1).tolist() == []


def test_forgetting_users_forgets_what_they_saw() -> None:
    house = House()
    house.apply(Sent("a", "1", item="t01"), Sent("b", "1", item="t02"))
    a, b = (int(house.directory.find(key_of(user))[0]) for user in "ab")
    assert len(house.seen.of(a)) == len(house.seen.of(b)) == 1
    house.run(house.erase("a"))
    assert house.seen.of(a).tolist() == []
    assert len(house.seen.of(b)) == 1


def test_an_erasure_on_its_way_hides_what_was_seen_for_good_or_until_it_fails() -> None:
    for fails in (False, True):
        house = House()
        house.apply(Sent("a", "1", item="t01"))
        ordinal = int(house.directory.find(key_of("a"))[0])
        house.store.hold()
        if fails:
            house.store.fail_commit(1)
        house.run(house.erase("a"))
        assert house.seen.of(ordinal).tolist() == []
        house.store.release()
        assert len(house.seen.of(ordinal)) == int(fails)


def test_erasures_that_are_done_are_not_remembered_though_nobody_asks_for_their_users() -> None:
    house = House()
    house.store.hold()
    for user in "abc":
        house.run(house.erase(user))
    assert len(house.seen._erasing) == 3
    house.store.release()
    house.run(house.erase("d"))
    assert len(house.seen._erasing) == 0
    house.store.hold()
    house.run(house.erase("e"))
    house.seen.forget()
    assert len(house.seen._erasing) == 0


def columns(count: int, calls: list[int], rows: list[int]) -> Predictions:
    return Predictions(
        call=np.array(calls, np.int64),
        row=np.array(rows, np.int64),
        events_seen=np.arange(count),
        embedding=np.arange(count, dtype=np.float32)[:, None],
        actions=None,
        item_rows=np.arange(count)[:, None],
        item_scores=np.arange(count, dtype=np.float32)[:, None],
    )


@given(shape=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3), min_size=1, max_size=4), data=st.data())
@settings(max_examples=50, deadline=None)
def test_each_arrival_gets_its_own_predictions_in_its_own_numbers(shape: list[list[int]], data: st.DataObject) -> None:
    arrivals = [arrival_of([Asked(tuple(Sent("a", "m") for _ in range(size))) for size in calls]) for calls in shape]
    merged = merge(arrivals, [[True] * len(calls) for calls in shape])
    chosen = [row for row in range(len(merged)) if data.draw(st.booleans())]
    if not chosen:
        assert split(None, merged) == [None] * len(shape)
        return
    whole = columns(len(chosen), merged.call[chosen].tolist(), chosen)
    parts = split(whole, merged)
    at = 0
    for number, part in enumerate(parts):
        start, stop = merged.offsets[number], merged.offsets[number + 1]
        mine = [row for row in chosen if start <= row < stop]
        if not mine:
            assert part is None
            continue
        assert part.row.tolist() == [row - start for row in mine]
        first = merged.first_call[number]
        assert part.call.tolist() == [merged.call[row] - first for row in mine]
        wanted = list(range(at, at + len(mine)))
        assert part.events_seen.tolist() == wanted
        assert part.embedding[:, 0].tolist() == wanted
        assert part.item_rows[:, 0].tolist() == wanted
        assert part.actions is None
        at += len(mine)
    assert at == len(chosen)


def test_arrivals_of_a_batch_are_answered_as_if_each_had_been_alone() -> None:
    batched, alone = House(), House()
    asked = [Asked((Sent(user, "1", item="t05"), Sent(user, "2")), BY_EVENT) for user in "abc"]
    answers = batched.run(*(EventWork(arrival_of([call])) for call in asked))
    for call, got in zip(asked, answers, strict=True):
        wanted = alone.send(call)
        assert got.status.tolist() == wanted.status.tolist() == [Status.ACCEPTED] * 2
        assert got.predictions.row.tolist() == wanted.predictions.row.tolist() == [0, 1]
        assert got.predictions.item_rows.tolist() == wanted.predictions.item_rows.tolist()


@pytest.mark.parametrize("per", [Per.USER, Per.EVENT])
def test_suppressed_users_get_no_predictions(per: Per) -> None:
    house = House()
    house.run(house.erase("a", suppress=True))
    answer = house.send(Asked((Sent("a", "1"), Sent("b", "2")), CallOptions(per=per)))
    assert answer.predictions.row.tolist() == [1]
