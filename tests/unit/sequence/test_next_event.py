"""When the next event comes, as a batch's predictions say it: of which moment, of which event, and for whom."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stage_house import NOW, Asked, House, S, Sent, arrival_of
from support.next_head import HORIZON_S, with_next_head

from nextact_server.events.call import CallOptions, NextColumns, Per, Predictions, Want
from nextact_server.sequence.merge import merge
from nextact_server.sequence.outputs import split
from nextact_server.sequence.stage import EventWork
from nextact_server.sequence.survival import BINS, bin_edges, expected_gap_s, leave_probability

NEXT = int(Want.NEXT)


def house_with_head(**options: object) -> House:
    house = House(**options)
    with_next_head(house.model)
    return house


def foretold(house: House, user: str, elapsed_s: float) -> tuple[float, float]:
    """What the model says of a user as the house holds them, so long after the last event."""
    _, _, tensors = house.state(user)
    hidden = house.model.hidden({name: torch.from_numpy(tensor)[None] for name, tensor in tensors.items()})
    logits, edges = house.model.next_logits(hidden).numpy(), bin_edges(HORIZON_S)
    elapsed = np.array([elapsed_s])
    gap, leave = expected_gap_s(logits, elapsed, edges), leave_probability(logits, elapsed, HORIZON_S, edges)
    return float(gap[0]), float(leave[0])


def said(columns: NextColumns | None, row: int = 0) -> tuple[float, float]:
    assert columns is not None
    assert columns.horizon_s == HORIZON_S
    return float(columns.expected_gap_s[row]), float(columns.leave_probability[row])


def asked(*events: Sent, **options: object) -> Asked:
    return Asked(events, CallOptions(want=NEXT, **options))


def test_a_model_without_the_head_says_nothing_of_it() -> None:
    assert House().send(asked(Sent("a", "1"))).predictions.next is None


def test_only_calls_that_want_it_have_it_computed() -> None:
    house = house_with_head()
    rest = int(Want.ALL) - NEXT
    assert house.send(Asked((Sent("a", "1"),), CallOptions(want=rest))).predictions.next is None
    both = house.send(Asked((Sent("a", "2"),), CallOptions(want=rest)), asked(Sent("b", "1"))).predictions
    assert len(both.next.leave_probability) == 2


@pytest.mark.parametrize(("as_of_s", "elapsed_s"), [(500.0, 440.0), (60.0, 0.0), (10.0, 0.0), (9e5, 899_940.0)])
def test_it_is_of_the_moment_that_the_call_asks_for(as_of_s: float, elapsed_s: float) -> None:
    house = house_with_head()
    answer = house.send(asked(Sent("a", "1", seconds=60.0), as_of_us=NOW + int(as_of_s * S)))
    assert said(answer.predictions.next) == pytest.approx(foretold(house, "a", elapsed_s), rel=1e-5)


def test_without_one_it_is_of_the_moment_when_the_call_arrived() -> None:
    house = house_with_head()
    work = EventWork(arrival_of([asked(Sent("a", "1", seconds=-100.0))], now_us=NOW + 30 * S), house.journal.epoch)
    (answer,) = house.run(work)
    assert said(answer.predictions.next) == pytest.approx(foretold(house, "a", 130.0), rel=1e-5)


def test_calls_of_one_batch_are_each_answered_for_their_own_moment() -> None:
    house = house_with_head()
    moments = [100.0, 4000.0, 0.0]
    answer = house.send(*(asked(Sent("abc"[at], "1"), as_of_us=NOW + int(s * S)) for at, s in enumerate(moments)))
    for at, elapsed_s in enumerate(moments):
        assert said(answer.predictions.next, at) == pytest.approx(foretold(house, "abc"[at], elapsed_s), rel=1e-5)


def test_arrivals_of_one_batch_arrived_each_at_its_own_moment() -> None:
    house = house_with_head()
    works = [
        EventWork(arrival_of([asked(Sent(user, "1"))], now_us=NOW + late * S), house.journal.epoch)
        for user, late in (("a", 5), ("b", 7000))
    ]
    for answer, user, elapsed_s in zip(house.run(*works), "ab", (5.0, 7000.0), strict=True):
        assert said(answer.predictions.next) == pytest.approx(foretold(house, user, elapsed_s), rel=1e-5)


def test_a_replay_is_answered_for_the_moment_of_each_event() -> None:
    together, singly = house_with_head(), house_with_head()
    rows = [Sent("a", str(at), seconds=at * 300.0 - 1e6, item=f"t0{at}") for at in range(4)]
    answer = together.send(asked(*rows, per=Per.EVENT, at_event=True))
    for at, row in enumerate(rows):
        singly.apply(row)
        assert said(answer.predictions.next, at) == pytest.approx(foretold(singly, "a", 0.0), rel=1e-4)


def test_an_event_within_a_batch_counts_the_time_since_itself_and_not_since_later_ones() -> None:
    together, singly = house_with_head(), house_with_head()
    rows = [Sent("a", str(at), seconds=at * 50.0 - 1000.0) for at in range(3)]
    answer = together.send(asked(*rows, per=Per.EVENT))
    for at, row in enumerate(rows):
        singly.apply(row)
        assert said(answer.predictions.next, at) == pytest.approx(foretold(singly, "a", 1000.0 - at * 50.0), rel=1e-4)


@pytest.mark.parametrize("apply_late", [True, False])
def test_a_late_event_leaves_the_time_of_the_newest(apply_late: bool) -> None:
    house = house_with_head(apply_late=apply_late)
    house.apply(Sent("a", "1", seconds=-100.0))
    answer = house.send(asked(Sent("a", "2", seconds=-5000.0)))
    assert said(answer.predictions.next) == pytest.approx(foretold(house, "a", 100.0), rel=1e-5)


def test_an_event_that_was_there_before_gets_what_holds_now() -> None:
    house = house_with_head()
    house.apply(Sent("a", "1", seconds=-200.0))
    answer = house.send(asked(Sent("a", "1", seconds=-200.0), Sent("b", "1")))
    assert said(answer.predictions.next) == pytest.approx(foretold(house, "a", 200.0), rel=1e-5)


@pytest.mark.parametrize("moment", [{}, {"at_event": True}, {"as_of_us": NOW - 10**15}, {"as_of_us": NOW + 10**17}])
def test_a_user_without_any_event_has_just_come(moment: dict[str, object]) -> None:
    house = house_with_head()
    answer = house.send(asked(Sent("a", "1", seconds=301.0), **moment))  # too far ahead to be taken
    assert answer.predictions.events_seen.tolist() == [0]
    assert said(answer.predictions.next) == pytest.approx(foretold(house, "a", 0.0), rel=1e-5)


def test_the_moment_never_reaches_the_state() -> None:
    here, there = house_with_head(), house_with_head()
    here.send(asked(Sent("a", "1")))
    there.send(asked(Sent("a", "1"), as_of_us=NOW + 10**15))
    for mine, other in zip(here.state("a")[2].values(), there.state("a")[2].values(), strict=True):
        np.testing.assert_array_equal(mine, other)


@given(
    seconds=st.lists(st.floats(-1e9, 299.0), min_size=1, max_size=4),
    as_of_us=st.one_of(st.none(), st.integers(-62_135_596_800 * S, 253_402_300_799 * S)),
    at_event=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_whatever_is_asked_is_answered_with_numbers(seconds: list[float], as_of_us: int | None, at_event: bool) -> None:
    rows = [Sent("a", str(at), seconds=second) for at, second in enumerate(seconds)]
    answer = house_with_head().send(asked(*rows, per=Per.EVENT, as_of_us=as_of_us, at_event=at_event))
    gap, leave = answer.predictions.next.expected_gap_s, answer.predictions.next.leave_probability
    assert gap.dtype == leave.dtype == np.float32
    assert len(gap) == len(leave) == len(seconds)
    assert np.isfinite(gap).all()
    assert ((leave >= 0) & (leave <= 1)).all()


def test_each_arrival_gets_its_own_rows() -> None:
    arrivals = [arrival_of([asked(*(Sent("a", "m") for _ in range(size)))]) for size in (2, 1, 3)]
    merged = merge(arrivals, [[True]] * 3)
    numbers = np.arange(6, dtype=np.float32)
    whole = Predictions(merged.call, np.arange(6), np.arange(6), next=NextColumns(numbers, numbers / 10, 5.0))
    parts = split(whole, merged)
    assert [part.next.expected_gap_s.tolist() for part in parts] == [[0, 1], [2], [3, 4, 5]]
    assert [len(part.next.leave_probability) for part in parts] == [2, 1, 3]
    assert {part.next.horizon_s for part in parts} == {5.0}


def test_the_fake_head_has_as_many_bins_as_the_default() -> None:
    house = house_with_head()
    assert house.model.next_logits(house.model.initial_hidden()).shape == (1, BINS)
