"""The engine's law: however events are grouped into steps, users end where one step per event takes them."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_model import CELLS, TRAINED, CellName, Event, small_engine, step_of

from nextact_server.events.validation import EARLIEST_TIME
from nextact_server.sequence.arena import NO_TIME, UserStates
from nextact_server.sequence.engine import SequenceEngine, Timeline, _newest_before

S = 1_000_000
NOW = 1_700_000_000 * S
LANES = 4
LAST_TIME = 253_402_300_799 * S
INT64 = st.integers(np.iinfo(np.int64).min, np.iinfo(np.int64).max)

ENGINES = {
    (cell, apply_late): small_engine(cell, apply_late=apply_late) for cell in CELLS for apply_late in (True, False)
}

times = st.one_of(
    st.integers(0, 400).map(lambda seconds: NOW + seconds * S),
    st.integers(-10, 10).map(lambda days: NOW + days * 86_400 * S),
    st.sampled_from([EARLIEST_TIME, EARLIEST_TIME + 1, 0, -1, LAST_TIME]),
)
events = st.builds(
    Event,
    lane=st.integers(0, LANES - 1),
    time=times,
    action=st.integers(1, 4),
    item=st.sampled_from([None, "never-seen", *TRAINED[:4]]),
    content=st.one_of(st.none(), st.integers(1, 5)),
    active=st.sampled_from([True, True, True, False]),
)


def cut(rows: Sequence[Event], at: Sequence[int]) -> list[Sequence[Event]]:
    bounds = [0, *sorted({min(place, len(rows)) for place in at}), len(rows)]
    return [rows[start:stop] for start, stop in itertools.pairwise(bounds) if stop > start]


def assert_same_states(got: UserStates, wanted: UserStates) -> None:
    for name, tensor in wanted.tensors.items():
        torch.testing.assert_close(got.tensors[name], tensor, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(got.events_seen, wanted.events_seen)
    np.testing.assert_array_equal(got.last_time, wanted.last_time)


@pytest.mark.parametrize("apply_late", [True, False])
@pytest.mark.parametrize("cell", CELLS)
@given(rows=st.lists(events, max_size=24), at=st.lists(st.integers(0, 24), max_size=6))
@settings(max_examples=40, deadline=None)
def test_any_grouping_into_steps_gives_the_state_of_one_by_one(
    cell: CellName, apply_late: bool, rows: list[Event], at: list[int]
) -> None:
    engine = ENGINES[cell, apply_late]
    grouped = singly = engine.initial(LANES)
    timelines = []
    for part in cut(rows, at):
        stepped = engine.step(step_of(part), grouped)
        timelines.append((stepped.timeline, stepped.applied))
        grouped = stepped.states
    alone = []
    for row in rows:
        stepped = engine.step(step_of([row]), singly)
        alone.append((stepped.timeline, stepped.applied))
        singly = stepped.states

    assert_same_states(grouped, singly)
    if rows:
        active = np.array([row.active for row in rows])
        for name in ("late", "effective", "gap"):
            joined = np.concatenate([getattr(timeline, name) for timeline, _ in timelines])
            wanted = np.concatenate([getattr(timeline, name) for timeline, _ in alone])
            np.testing.assert_array_equal(joined[active], wanted[active])
        np.testing.assert_array_equal(np.concatenate([a for _, a in timelines]), np.concatenate([a for _, a in alone]))


@given(rows=st.lists(events, min_size=1, max_size=16), seen=st.lists(events, max_size=6))
@settings(max_examples=40, deadline=None)
def test_hidden_at_and_rank_say_what_single_steps_say(rows: list[Event], seen: list[Event]) -> None:
    engine = ENGINES["lstm", False]
    start = engine.step(step_of(seen), engine.initial(LANES)).states if seen else engine.initial(LANES)
    stepped = engine.step(step_of(rows), start)

    states, hidden, counts = start, [], np.zeros(LANES, np.int64)
    for row in rows:
        alone = engine.step(step_of([row]), states)
        states = alone.states
        counts[row.lane] += alone.applied[0]
        assert stepped.rank[len(hidden)] == counts[row.lane]
        hidden.append(engine.model.hidden(states.tensors)[row.lane])

    lanes = np.array([row.lane for row in rows], np.int64)
    torch.testing.assert_close(stepped.hidden_at(lanes, stepped.rank), torch.stack(hidden), rtol=0, atol=1e-5)
    nothing = np.zeros(LANES, np.int64)
    torch.testing.assert_close(
        stepped.hidden_at(np.arange(LANES), nothing), engine.model.hidden(start.tensors), rtol=0, atol=1e-5
    )


@given(
    lanes=st.lists(st.integers(0, 4), max_size=30),
    last=st.lists(st.one_of(st.just(NO_TIME), INT64), min_size=5, max_size=5),
    data=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_newest_before_is_a_running_maximum_over_each_lane(
    lanes: list[int], last: list[int], data: st.DataObject
) -> None:
    when = data.draw(st.lists(INT64, min_size=len(lanes), max_size=len(lanes)))
    newest, wanted = list(last), []
    for lane, time in zip(lanes, when, strict=True):
        wanted.append(newest[lane])
        newest[lane] = max(newest[lane], time)
    got = _newest_before(np.array(lanes, np.int64), np.array(when, np.int64), np.array(last, np.int64))
    np.testing.assert_array_equal(got, np.array(wanted, np.int64))


@given(
    rows=st.lists(events, max_size=30),
    last=st.lists(st.one_of(st.just(NO_TIME), times), min_size=LANES, max_size=LANES),
    apply_late=st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_late_effective_time_and_gap_follow_the_plain_rule(
    rows: list[Event], last: list[int], apply_late: bool
) -> None:
    engine = ENGINES["gru", apply_late]
    start = replace(engine.initial(LANES), last_time=np.array(last, np.int64))
    stepped = engine.step(step_of(rows), start)
    newest = list(last)
    for at, row in enumerate(rows):
        if not row.active:
            assert not stepped.applied[at]
            continue
        before = newest[row.lane]
        late = before != NO_TIME and row.time < before - 60 * S
        effective = row.time if before == NO_TIME else max(row.time, before)
        assert bool(stepped.timeline.late[at]) == late
        assert stepped.timeline.effective[at] == effective
        assert stepped.timeline.gap[at] == (-1 if before == NO_TIME else effective - before)
        assert bool(stepped.applied[at]) == (apply_late or not late)
        newest[row.lane] = effective
    np.testing.assert_array_equal(stepped.states.last_time, newest)


@pytest.mark.parametrize("time", [EARLIEST_TIME, EARLIEST_TIME + 59 * S, LAST_TIME, NO_TIME + 1, NO_TIME, 2**63 - 1])
def test_the_edges_of_time_neither_overflow_nor_spoil_the_state(time: int) -> None:
    engine = small_engine(lateness_s=60.0)
    refused = [Event(0, time, active=False), Event(0, NOW), Event(0, time, active=False), Event(1, time, active=False)]
    with np.errstate(all="raise"):
        stepped = engine.step(step_of(refused), engine.initial(2))
    assert stepped.timeline.late.tolist()[1] is False
    assert stepped.timeline.gap.tolist()[1] == -1
    assert stepped.states.last_time.tolist() == [NOW, NO_TIME]
    assert all(torch.isfinite(tensor).all() for tensor in stepped.states.tensors.values())


def test_from_the_first_moment_to_the_last_is_a_finite_gap() -> None:
    engine = small_engine()
    with np.errstate(all="raise"):
        stepped = engine.step(
            step_of([Event(0, EARLIEST_TIME), Event(0, LAST_TIME), Event(0, EARLIEST_TIME)]), engine.initial(1)
        )
    assert stepped.timeline.gap.tolist() == [-1, LAST_TIME - EARLIEST_TIME, 0]
    assert stepped.timeline.late.tolist() == [False, False, True]
    assert torch.isfinite(stepped.hidden).all()


def test_an_event_exactly_as_old_as_allowed_is_not_late() -> None:
    engine = small_engine(lateness_s=60.0)
    rows = step_of([Event(0, NOW), Event(0, NOW - 60 * S), Event(0, NOW - 60 * S - 1)])
    assert engine.step(rows, engine.initial(1)).timeline.late.tolist() == [False, False, True]


def test_a_step_changes_neither_its_rows_nor_the_states_it_is_given() -> None:
    engine = small_engine("lstm")
    start = engine.step(step_of([Event(0, NOW), Event(1, NOW + S)]), engine.initial(2)).states
    before = {name: tensor.clone() for name, tensor in start.tensors.items()}
    seen, last = start.events_seen.copy(), start.last_time.copy()
    rows = step_of([Event(1, NOW + 5 * S, item="t01", content=3), Event(1, NOW), Event(0, NOW, active=False)])
    engine.step(rows, start)
    assert all(torch.equal(start.tensors[name], tensor) for name, tensor in before.items())
    np.testing.assert_array_equal(start.events_seen, seen)
    np.testing.assert_array_equal(start.last_time, last)


def test_a_step_of_nothing_but_inactive_rows_reads_the_state_before() -> None:
    engine = small_engine()
    start = engine.step(step_of([Event(0, NOW)]), engine.initial(2)).states
    stepped = engine.step(step_of([Event(0, NOW, active=False), Event(1, NOW, active=False)]), start)
    lanes = np.array([0, 1], np.int64)
    assert torch.equal(stepped.hidden_at(lanes, stepped.rank), start.tensors["h"])
    assert_same_states(stepped.states, start)


def test_a_step_without_rows_is_no_step() -> None:
    engine = small_engine()
    start = engine.initial(3)
    assert_same_states(engine.step(step_of([]), start).states, start)


@given(rows=st.lists(events.map(lambda event: replace(event, active=True)), min_size=1, max_size=16))
@settings(max_examples=30, deadline=None)
def test_a_replay_of_what_was_recorded_gives_the_state_that_was(rows: list[Event]) -> None:
    engine = ENGINES["gru", True]
    stepped = engine.step(step_of(rows), engine.initial(LANES))
    recorded = Timeline(
        late=np.zeros(len(rows), np.bool_), effective=stepped.timeline.effective, gap=stepped.timeline.gap
    )
    assert_same_states(engine.replay(step_of(rows), recorded, engine.initial(LANES)), stepped.states)


def test_items_actions_and_own_content_all_reach_the_state() -> None:
    engine = small_engine()
    variants = [
        Event(0, NOW),
        Event(0, NOW, action=3),
        Event(0, NOW, action=1),
        Event(0, NOW, item="t01"),
        Event(0, NOW, item="t02"),
        Event(0, NOW, item="never-seen"),
        Event(0, NOW, content=1),
        Event(0, NOW, content=2),
        Event(0, NOW + 3 * 3600 * S),
    ]
    states = [engine.step(step_of([event]), engine.initial(1)).states.tensors["h"][0] for event in variants]
    for at, state in enumerate(states):
        for other in states[at + 1 :]:
            assert not torch.allclose(state, other, atol=1e-6)


def test_all_items_never_seen_are_one_and_the_same_unknown_item() -> None:
    engine = small_engine()
    states = [engine.step(step_of([Event(0, NOW, item=name)]), engine.initial(1)).states for name in ("x", "y")]
    assert torch.equal(states[0].tensors["h"], states[1].tensors["h"])


def test_lateness_of_zero_makes_every_older_event_late() -> None:
    engine: SequenceEngine = small_engine(lateness_s=0.0)
    rows = step_of([Event(0, NOW), Event(0, NOW), Event(0, NOW - 1)])
    assert engine.step(rows, engine.initial(1)).timeline.late.tolist() == [False, False, True]
