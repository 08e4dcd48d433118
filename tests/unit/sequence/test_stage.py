"""The stage against the plain stage, over any calls in any batches, also with a store that fails."""

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_stage import NO_EXCLUSION, PlainStage, assert_answer
from stage_house import Asked, House, Sent, arrival_of, assert_same_user, key_of

from nextact_server.events.call import NO_FILTER, CallOptions, Filter, Per, Want
from nextact_server.events.status import Status
from nextact_server.sequence.journal import StoreUnavailable
from nextact_server.sequence.stage import EventWork, RankWork, Task, Work, cost_of

USERS = ("a", "b", "c")

sent = st.builds(
    Sent,
    user=st.sampled_from([*USERS, *USERS, ""]),
    message=st.sampled_from(["", "m1", "m2", "m3", "m4"]),
    seconds=st.sampled_from([0, 1, 2, 30, 100, 200, -100, -50, 301]),
    action=st.sampled_from(["view", "buy", "never-seen", ""]),
    item=st.sampled_from(["", "t01", "t02", "nobody"]),
    content=st.sampled_from([None, None, 1, 2]),
)
options = st.builds(
    CallOptions,
    top_k=st.sampled_from([1, 3, 20]),
    want=st.sampled_from([Want.ALL, Want.EMBEDDING, Want.ACTIONS, Want.ITEMS, Want.NEXT]),
    per=st.sampled_from(list(Per)),
    filter=st.sampled_from([NO_FILTER, NO_EXCLUSION]),
)
calls = st.builds(Asked, events=st.lists(sent, max_size=5).map(tuple), options=options)


@dataclass(frozen=True)
class Erase:
    user: str
    suppress: bool


@dataclass(frozen=True)
class Rank:
    user: str
    filter: Filter = NO_FILTER


def stateless(call: Asked, history: list[Sent]) -> Asked:
    return replace(call, history=tuple(history))


def what_if(call: Asked) -> Asked:
    return replace(call, options=replace(call.options, dry_run=True))


kept = st.lists(calls, min_size=1, max_size=3)
private = st.one_of(calls.map(what_if), st.builds(stateless, calls, st.lists(sent, min_size=1, max_size=3))).map(
    lambda call: [call]
)
erasures = st.builds(Erase, st.sampled_from(USERS), st.sampled_from([False, False, True]))
work = st.one_of(kept, kept, kept, private, erasures, st.builds(Rank, st.sampled_from([*USERS, "nobody"])))
# What is still on its way to the store does not count as seen yet.
in_flight = calls.map(lambda call: replace(call, options=replace(call.options, filter=NO_EXCLUSION)))
unfiltered = st.one_of(
    st.lists(in_flight, min_size=1, max_size=3),
    st.lists(in_flight, min_size=1, max_size=3),
    in_flight.map(lambda call: [what_if(call)]),
    erasures,
    st.builds(Rank, st.sampled_from(USERS), st.just(NO_EXCLUSION)),
)
batches = st.lists(st.lists(work, min_size=1, max_size=5), min_size=1, max_size=4)


def as_work(house: House, spelled: object) -> Work:
    if isinstance(spelled, Erase):
        return house.erase(spelled.user, suppress=spelled.suppress)
    if isinstance(spelled, Rank):
        return RankWork(key_of(spelled.user), (), 20, spelled.filter)
    return house.work(*spelled)


def check(house: House, plain: PlainStage, spelled: object, got: object) -> None:
    """Lets the plain stage do the same, and compares."""
    if isinstance(got, BaseException):
        raise got
    if isinstance(spelled, Erase):
        plain.erase(spelled.user, suppress=spelled.suppress)
    elif isinstance(spelled, Rank):
        best, events_seen = plain.rank(spelled.user, CallOptions(top_k=20, filter=spelled.filter))
        assert house.index.ids(got.rows) == [name for name, _ in best]
        np.testing.assert_allclose(got.scores, [score for _, score in best], rtol=0, atol=1e-4)
        assert got.events_seen == events_seen
    else:
        assert_answer(plain, got, spelled, [plain.call(call) for call in spelled])


def assert_same_world(house: House, plain: PlainStage) -> None:
    for name in USERS:
        events_seen, last_time, tensors = house.state(name)
        user = plain.user(name)
        assert events_seen == user.states.events_seen[0]
        assert last_time == user.states.last_time[0]
        for tensor_name, tensor in user.states.tensors.items():
            np.testing.assert_allclose(tensors[tensor_name], tensor[0].numpy(), rtol=0, atol=1e-5)
        ordinal = house.directory.resolve(key_of(name))
        assert house.store.users(ordinal).events_seen.tolist() == [events_seen]
        assert bool(house.store.suppressed(key_of(name))[0]) == (name in plain.suppressed)
        recorded = house.store.history(int(ordinal[0]), None, 1000)
        assert len(recorded) == len(user.ids)
        assert {name for name in recorded.columns.column("item_id").to_pylist() if name} == user.items


@given(batches=batches, apply_late=st.booleans(), capacity=st.sampled_from([3, 64]))
@settings(max_examples=120, deadline=None)
def test_whole_batches_answer_as_one_event_at_a_time(batches: list, apply_late: bool, capacity: int) -> None:
    house = House(apply_late=apply_late, capacity=capacity)
    plain = PlainStage(house.engine, apply_late=apply_late)
    for batch in batches:
        results = house.run(*(as_work(house, spelled) for spelled in batch))
        for spelled, got in zip(batch, results, strict=True):
            check(house, plain, spelled, got)
    assert_same_world(house, plain)


def uniquely_named(batches: Sequence[Sequence[object]]) -> Iterator[list[object]]:
    """The same, with an id of its own for every event, so that only what is sent again is a duplicate."""
    numbers = itertools.count()
    for batch in batches:
        yield [
            [
                replace(call, events=tuple(replace(event, message=f"n{next(numbers)}") for event in call.events))
                for call in spelled
            ]
            if isinstance(spelled, list)
            else spelled
            for spelled in batch
        ]


def has_failed(got: object) -> bool:
    """Whether a result that is settled is one that its caller has to ask for again."""
    return isinstance(got, BaseException) or durable_of(got).exception() is not None


def durable_of(got: object) -> "Future[None]":
    return got if isinstance(got, Future) else got.durable


class Caller:
    """Sends works in order, and sends again, in order and before anything else, what was not kept."""

    def __init__(self, house: House, plain: PlainStage) -> None:
        self._house = house
        self._plain = plain
        self._open: deque[tuple[object, object]] = deque()

    def send(self, batch: Sequence[object]) -> None:
        results = self._house.run(*(as_work(self._house, spelled) for spelled in batch))
        self._open.extend(zip(batch, results, strict=True))

    def settle(self) -> None:
        """Takes the answers that have come, in order; a failure sends all behind it again."""
        while self._open and (isinstance(self._open[0][1], BaseException) or durable_of(self._open[0][1]).done()):
            if has_failed(self._open[0][1]):
                again, self._open = [spelled for spelled, _ in self._open], deque()
                self.send(again)
                return
            check(self._house, self._plain, *self._open.popleft())

    def __bool__(self) -> bool:
        return bool(self._open)


@given(
    batches=st.lists(st.lists(unfiltered, min_size=1, max_size=5), min_size=1, max_size=4),
    fails=st.integers(1, 6),
    releases=st.lists(st.integers(0, 3), max_size=4),
)
@settings(max_examples=60, deadline=None)
def test_what_is_sent_again_after_a_failed_commit_leaves_everything_as_in_a_quiet_run(
    batches: list, fails: int, releases: list[int]
) -> None:
    house = House()
    plain = PlainStage(house.engine, apply_late=True)
    caller = Caller(house, plain)
    house.store.hold()
    house.store.fail_commit(fails)
    for number, batch in enumerate(uniquely_named(batches)):
        caller.send(batch)
        house.store.release(releases[number] if number < len(releases) else 0)
        caller.settle()
    for _ in range(3):
        house.store.release()
        caller.settle()
    assert not caller
    house.run(Task(lambda: None))
    assert_same_world(house, plain)


# Single promises -----------------------------------------------------------------------------------------------------


def test_a_call_taken_back_before_its_step_is_left_out_and_the_others_go_on() -> None:
    house = House()
    taken_back = house.work(Asked((Sent("a", "1"),)), Asked((Sent("a", "2", seconds=1), Sent("b", "3"))))
    taken_back.cancelled.add(0)
    answer = house.run(taken_back, house.work(Asked((Sent("a", "1", seconds=2),))))
    assert answer[0].status.tolist() == [Status.INVALID, Status.ACCEPTED, Status.ACCEPTED]
    assert answer[0].predictions.call.tolist() == [1, 1]
    assert answer[1].status.tolist() == [Status.ACCEPTED], "a message id that was never applied is not a duplicate"
    assert house.state("a")[0] == 2


def test_a_what_if_sees_what_came_before_it_and_nothing_after() -> None:
    house = House()
    ask = Asked((Sent("a", "if", seconds=50),), CallOptions(dry_run=True))
    works = [
        house.work(Asked((Sent("a", "1"),))),
        house.work(ask),
        house.work(Asked((Sent("a", "2", seconds=60),))),
        house.work(ask),
    ]
    first, before, second, after = house.run(*works)
    assert [x.predictions.events_seen.tolist() for x in (first, before, second, after)] == [[1], [2], [2], [3]]
    assert house.state("a")[0] == 2
    assert house.store.commits == 2


def test_a_stateless_call_neither_reads_nor_writes_anything() -> None:
    house, fresh = House(), House()
    house.apply(Sent("a", "1"), Sent("b", "2", seconds=3))
    before = house.state("a")
    call = Asked((Sent("a", "1", seconds=9),), CallOptions(), (Sent("a", "old", seconds=1, content=2),))
    got, wanted = house.send(call), fresh.send(call)
    assert got.status.tolist() == wanted.status.tolist() == [Status.ACCEPTED, Status.ACCEPTED]
    np.testing.assert_allclose(got.predictions.embedding, wanted.predictions.embedding, rtol=0, atol=1e-6)
    assert house.state("a")[:2] == before[:2]
    assert (house.store.commits, fresh.store.commits) == (1, 0)
    assert len(fresh.directory) == 0


def test_a_what_if_about_a_user_never_seen_leaves_no_trace_of_them() -> None:
    house = House()
    answer = house.send(Asked((Sent("ghost", "1"),), CallOptions(dry_run=True)))
    assert answer.status.tolist() == [Status.ACCEPTED]
    assert len(house.directory) == 0
    assert len(house.arena) == 0


def test_a_retried_call_is_answered_like_the_first() -> None:
    house = House()
    events = (Sent("a", "1", content=1), Sent("b", "2"), Sent("a", "", seconds=4))
    first, again = house.apply(*events), house.apply(*events)
    assert again.status.tolist() == [Status.DUPLICATE] * 3
    assert again.original.tolist() == first.status.tolist()
    assert again.applied.tolist() == first.applied.tolist()
    np.testing.assert_allclose(again.predictions.embedding, first.predictions.embedding, rtol=0, atol=1e-6)
    assert again.predictions.item_rows.tolist() == first.predictions.item_rows.tolist()


def test_a_copy_of_an_event_on_its_way_waits_for_its_commit_and_takes_its_place_if_that_fails() -> None:
    house = House()
    house.store.hold()
    house.store.fail_commit(1)
    first = house.apply(Sent("a", "1"))
    copy = house.apply(Sent("a", "1"))
    assert copy.status.tolist() == [Status.DUPLICATE]
    assert not copy.durable.done()
    house.store.release()
    assert first.durable.exception() is not None
    assert copy.durable.exception() is not None
    again = house.apply(Sent("a", "1"))
    assert again.status.tolist() == [Status.ACCEPTED]
    assert again.durable.exception() is None
    assert house.state("a")[0] == 1


def test_while_the_store_cannot_be_reopened_nothing_is_applied() -> None:
    house = House()
    house.apply(Sent("a", "1"))
    house.store.fail_commit(1)
    house.apply(Sent("a", "2", seconds=1))
    house.store.fail_reopen()
    ran: list[int] = []
    works = [house.work(Asked((Sent("a", "3", seconds=2),))), Task(lambda: ran.append(1)), house.work(Asked(()))]
    results = house.run(*works)  # as many as the works, from the one reopening that fails
    assert len(results) == len(works)
    for refused in results:
        assert isinstance(refused, StoreUnavailable)
        assert "reopen failed on demand" in str(refused)
    assert ran == []
    assert house.health == [False]
    assert house.apply(Sent("a", "3", seconds=2)).status.tolist() == [Status.ACCEPTED]
    assert house.health == [False, True]
    assert house.state("a")[0] == 2


def test_a_work_that_fails_does_not_take_its_neighbours_along() -> None:
    house = House(capacity=2)
    crowd = house.work(Asked(tuple(Sent(user, user) for user in "cdef")))
    before, failed, after = house.run(house.work(Asked((Sent("a", "1"),))), crowd, house.work(Asked((Sent("a", "1"),))))
    assert before.status.tolist() == [Status.ACCEPTED]
    assert isinstance(failed, ValueError)
    assert after.status.tolist() == [Status.DUPLICATE]
    assert house.counts.total[Status.ACCEPTED] == 1


def test_a_task_that_raises_is_its_own_failure() -> None:
    house = House()

    def broken() -> None:
        raise KeyError("gone")

    failed, done = house.run(Task(broken), Task(lambda: 7))
    assert isinstance(failed, KeyError)
    assert done == 7


def test_all_calls_of_a_batch_share_one_commit() -> None:
    house = House()
    works = [house.work(Asked((Sent(user, "1"),)), Asked((Sent(user, "2"),))) for user in "abc"]
    answers = house.run(*works)
    assert house.store.commits == 1
    assert all(answer.status.tolist() == [Status.ACCEPTED] * 2 for answer in answers)


def test_nothing_to_record_is_no_commit() -> None:
    house = House()
    house.apply(Sent("a", "1"))
    assert house.apply(Sent("a", "1"), Sent("", "2"), Sent("a", "3", seconds=301)).durable.done()
    assert house.store.commits == 1


@pytest.mark.parametrize("content", [None, 3])
def test_a_suppressed_user_alone_in_a_batch_is_answered_and_not_recorded(content: int | None) -> None:
    house = House()
    house.apply(Sent("a", "1"))
    house.run(house.erase("a", suppress=True))
    answer = house.apply(Sent("a", "2", content=content))
    assert answer.status.tolist() == [Status.SUPPRESSED]
    assert answer.predictions is None
    assert house.store.commits == 2


def test_a_user_whose_suppression_is_on_its_way_is_suppressed_already() -> None:
    house = House()
    house.apply(Sent("a", "1"))
    house.store.hold()
    house.run(house.erase("a", suppress=True))
    assert house.apply(Sent("a", "2")).status.tolist() == [Status.SUPPRESSED]
    house.store.release()
    assert house.apply(Sent("a", "3")).status.tolist() == [Status.SUPPRESSED]


def test_a_suppression_that_was_not_kept_suppresses_nobody() -> None:
    house, quiet = House(), House()
    for target in (house, quiet):
        target.apply(Sent("a", "1", item="t01"))
    house.store.fail_commit(1)
    house.run(house.erase("a", suppress=True))
    for target in (house, quiet):
        assert target.apply(Sent("a", "2", seconds=1)).status.tolist() == [Status.ACCEPTED]
    assert_same_user(house, quiet, "a")


def test_an_event_behind_an_erasure_on_its_way_begins_a_new_user() -> None:
    house, fresh = House(), House()
    house.apply(Sent("a", "1", item="t01"), Sent("a", "2", seconds=5))
    house.store.hold()
    house.run(house.erase("a"))
    for target in (house, fresh):
        target.apply(Sent("a", "3", seconds=-200))
    assert_same_user(house, fresh, "a")
    ranked = house.run(RankWork(key_of("a"), ("t01",), 5, NO_FILTER))[0]
    assert house.index.ids(ranked.rows) == ["t01"], "what was erased was never seen"
    house.store.release()
    house.run(Task(lambda: None))
    house.arena.drop(house.directory.find(key_of("a")))
    assert_same_user(house, fresh, "a")


def test_an_erasure_that_was_not_kept_leaves_the_user_as_they_were() -> None:
    house, quiet = House(), House()
    for target in (house, quiet):
        target.apply(Sent("a", "1", item="t01", content=2), Sent("a", "2", seconds=5))
    house.store.hold()
    house.store.fail_commit(1)
    house.run(house.erase("a"))
    house.apply(Sent("a", "3", seconds=9))
    house.store.release()
    house.run(Task(lambda: None))
    assert_same_user(house, quiet, "a")
    ranked = house.run(RankWork(key_of("a"), ("t01",), 5, NO_FILTER))[0]
    assert ranked.rows.tolist() == []


def test_vectors_are_kept_only_of_content_that_the_history_refers_to() -> None:
    house = House()
    house.apply(Sent("a", "1", content=1), Sent("a", "1", content=2), Sent("a", "2", content=3, seconds=301))
    hashes = np.array([[seed] * 16 for seed in (1, 2, 3)], np.uint8)
    assert house.store.content_vectors(hashes)[0].tolist() == [True, False, False]


def test_candidates_are_ranked_among_themselves_within_the_filter() -> None:
    house = House()
    house.apply(Sent("a", "1", item="t01"))

    def ranked(candidates: tuple[str, ...], top_k: int = 0, wish: Filter = NO_FILTER) -> list[str]:
        got = house.run(RankWork(key_of("a"), candidates, top_k, wish))[0]
        assert got.scores.tolist() == sorted(got.scores.tolist(), reverse=True)
        return sorted(house.index.ids(got.rows))

    assert ranked(("t01", "t02", "t03", "t02", "nobody")) == ["t02", "t03"]
    assert ranked(("t01", "t02"), wish=Filter(exclude_seen=False)) == ["t01", "t02"]
    assert ranked(("t02", "t03", "t04"), top_k=2) != ranked(("t02", "t03", "t04"))
    assert len(ranked(("t02", "t03", "t04"), top_k=2)) == 2
    assert ranked(("t02", "t03"), wish=Filter(include=("t03", "t04"))) == ["t03"]
    assert ranked(("t02", "t03"), wish=Filter(include=("t04",))) == []
    assert ranked(("t02", "t03"), wish=Filter(exclude=("t02",))) == ["t03"]
    assert ranked(("nobody",)) == []
    assert len(ranked((), top_k=5)) == 5


def test_ranking_for_a_user_never_seen_starts_from_the_initial_state_and_records_nothing() -> None:
    house = House()
    got = house.run(RankWork(key_of("nobody"), (), 20, NO_FILTER))[0]
    assert got.events_seen == 0
    assert len(got.rows) == 12
    assert len(house.directory) == 0


def test_a_ranking_is_valid_only_once_the_events_it_read_are_durable() -> None:
    house = House()
    house.store.hold()
    house.apply(Sent("a", "1"))
    got = house.run(RankWork(key_of("a"), (), 5, NO_FILTER))[0]
    assert not got.durable.done()
    house.store.release()
    assert got.durable.result() is None


def test_cost_is_counted_in_events() -> None:
    assert cost_of(EventWork(arrival_of([Asked((Sent(), Sent())), Asked((Sent(),))]))) == 3
    assert cost_of(Task(lambda: None)) == cost_of(RankWork(key_of("a"), (), 5, NO_FILTER)) == 1


def test_an_empty_call_is_answered_with_nothing() -> None:
    house = House()
    for call in (Asked(()), Asked((), CallOptions(dry_run=True))):
        answer = house.send(call)
        assert answer.status.tolist() == []
        assert answer.predictions is None
    assert house.run() == []


def test_the_history_holds_what_was_sent_and_what_the_model_was_given() -> None:
    house = House()
    house.apply(Sent("a", "1", item="t01", seconds=100), Sent("a", "", seconds=0, content=2), Sent("b", "x"))
    page = house.store.history(int(house.directory.find(key_of("a"))[0]), None, 10)
    assert page.columns.column("item_id").to_pylist() == ["", "t01"]
    assert page.columns.column("user_id").to_pylist() == ["a", "a"]
    assert len(page.columns.column("message_id").to_pylist()[0]) == 32
    assert page.status.tolist() == [Status.LATE, Status.ACCEPTED]
    assert (page.effective_time_us - page.event_time_us).tolist() == [100_000_000, 0]
    assert page.content_hash[0].tolist() == [2] * 16
    assert not page.content_hash[1].any()


def test_what_was_submitted_before_a_failure_is_not_applied_after_it() -> None:
    house = House()
    follows = house.work(Asked((Sent("a", "2", seconds=1),)))
    house.store.fail_commit(1)
    house.apply(Sent("a", "1"))
    refused, task = house.run(follows, Task(lambda: 7))
    assert isinstance(refused, StoreUnavailable)
    assert task == 7
    assert house.state("a")[0] == 0
    assert house.apply(Sent("a", "1"), Sent("a", "2", seconds=1)).status.tolist() == [Status.ACCEPTED] * 2


def test_a_failure_within_a_run_refuses_what_follows_in_it() -> None:
    house = House()
    house.store.fail_commit(1)
    ask = Asked((Sent("a", "2"),), CallOptions(dry_run=True))
    first, _, behind = house.run(
        house.work(Asked((Sent("a", "1"),))), house.work(ask), house.work(Asked((Sent("b", "3"),)))
    )
    assert first.durable.exception() is not None
    assert isinstance(behind, StoreUnavailable)
    assert house.state("b")[0] == 0
