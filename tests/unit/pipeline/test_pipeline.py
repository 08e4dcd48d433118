"""The way of a call: content encoded meanwhile, each user's order kept, nobody waiting for a stranger."""

from concurrent.futures import CancelledError, Future

import numpy as np
import pyarrow as pa
import pytest
from hand_rooms import Kept, Rooms, Sent, arrival_in, batch_of, name_of, vector
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nextact_server.events.call import NO_FILTER, Call, CallOptions
from nextact_server.events.identity import user_keys
from nextact_server.events.status import Status
from nextact_server.inference.batcher import BatcherClosed, QueueFull
from nextact_server.pipeline import CallsApart, PipelineLimits, Submission, UnknownModelVersion
from nextact_server.sequence.journal import StoreUnavailable
from nextact_server.sequence.stage import RankWork


@pytest.fixture
def rooms() -> Rooms:
    return Rooms()


def key_of(user: str) -> np.ndarray:
    return user_keys(pa.array([user]), None)[0]


# Order ---------------------------------------------------------------------------------------------------------------


def test_events_without_content_go_straight_to_the_batcher(rooms: Rooms) -> None:
    first = rooms.submit(Sent("a", "1"))
    rooms.submit(Sent("b", "2"))
    assert rooms.queued() == ["1", "2"]
    assert rooms.encoder.asked == []
    rooms.batcher.step("answer")
    assert first.future.result(0) == "answer"


def test_content_that_is_known_costs_no_wait(rooms: Rooms) -> None:
    submission = rooms.submit(Sent("a", "1", text="known"))
    assert rooms.queued() == ["1"]
    arrival = arrival_in(submission)
    assert arrival.content_rows.tolist() == [0]
    np.testing.assert_array_equal(arrival.content, [vector("known")])
    assert arrival.content_hash[0].tobytes().rstrip(b"\0") == b"known"


def test_later_events_of_the_same_user_wait_and_others_overtake(rooms: Rooms) -> None:
    rooms.submit(Sent("a", "1", text="slow"))
    rooms.submit(Sent("a", "2"))
    rooms.submit(Sent("b", "3"))
    rooms.submit(Sent("a", "4", text="known"))
    assert rooms.queued() == ["3"]
    rooms.encoder.finish("slow")
    assert rooms.queued() == ["3", "1", "2", "4"]


def test_a_submission_of_two_users_waits_for_both_and_holds_both_back(rooms: Rooms) -> None:
    rooms.submit(Sent("a", "1", text="slow"))
    rooms.submit(Sent("a", "2"), Sent("b", "2"))
    rooms.submit(Sent("b", "3"))
    rooms.submit(Sent("c", "4"))
    assert rooms.queued() == ["4"]
    rooms.encoder.finish("slow")
    assert rooms.queued() == ["4", "1", "2", "3"]


def test_encoding_overlaps_and_the_order_is_that_of_arrival(rooms: Rooms) -> None:
    rooms.submit(Sent("a", "1", text="slow"))
    rooms.submit(Sent("a", "2", text="quick"))
    rooms.encoder.finish("quick")
    assert rooms.queued() == []
    rooms.encoder.finish("slow")
    assert rooms.queued() == ["1", "2"]


def test_a_submission_goes_on_once_all_its_contents_are_there(rooms: Rooms) -> None:
    submission = rooms.submit(Sent("a", "1", text="one"), Sent("b", "2", image=b"two"), Sent("c", "3"))
    rooms.encoder.finish("two")
    assert rooms.queued() == []
    rooms.encoder.finish("one")
    assert arrival_in(submission).content_rows.tolist() == [0, 1]
    np.testing.assert_array_equal(arrival_in(submission).content, [vector("one"), vector("two")])


def test_a_task_about_a_user_takes_its_turn_behind_their_events_and_others_do_not_wait(rooms: Rooms) -> None:
    rooms.submit(Sent("a", "1", text="slow"))
    rooms.pipeline.run(lambda: None, user_key=key_of("a")[0])
    rooms.pipeline.run(lambda: None, user_key=key_of("b")[0])
    rooms.submit(Sent("a", "2"))
    assert rooms.queued() == ["task"]
    rooms.encoder.finish("slow")
    assert rooms.queued() == ["task", "1", "task", "2"]


def test_a_ranking_does_not_wait_for_content(rooms: Rooms) -> None:
    rooms.submit(Sent("a", "1", text="slow"))
    rooms.pipeline.rank(RankWork(key_of("a"), (), 5, NO_FILTER))
    assert rooms.queued() == ["rank"]


def test_an_invalid_event_is_not_encoded_and_its_user_waits_in_line(rooms: Rooms) -> None:
    rooms.submit(Sent("a", "1", text="slow"))
    rooms.submit(Sent("a", "2", text="never", action=""))
    assert [content.text for content in rooms.encoder.asked] == ["slow"]
    assert rooms.queued() == []


def test_events_of_nobody_wait_for_nobody(rooms: Rooms) -> None:
    rooms.submit(Sent("", "1", text="never"), Sent("a", "1", text="slow"))
    rooms.submit(Sent("", "2"))
    assert rooms.queued() == ["2"]


class PipelineModel(RuleBasedStateMachine):
    """Calls of three users, contents coming in any order, callers leaving: each user's order is that of arrival."""

    def __init__(self) -> None:
        super().__init__()
        self.rooms = Rooms()
        self.number = 0
        self.open: dict[str, tuple[Submission, set[str]]] = {}
        self.slow: dict[str, str] = {}
        self.stepped: list[str] = []

    @rule(users=st.lists(st.sampled_from("abc"), min_size=1, max_size=3), slow=st.booleans())
    def submit(self, users: list[str], slow: bool) -> None:
        self.number += 1
        name, text = f"{self.number}", f"text {self.number}" if slow else ""
        events = [Sent(user, name, text=text if at == 0 else "") for at, user in enumerate(users)]
        self.open[name] = self.rooms.submit(*events), set(users)
        if slow:
            self.slow[name] = text

    @precondition(lambda self: self.slow)
    @rule(data=st.data(), how=st.sampled_from(["finish", "finish", "refuse", "fail"]))
    def content_comes(self, data: st.DataObject, how: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.slow)))
        text = self.slow.pop(name)
        if how == "finish":
            self.rooms.encoder.finish(text)
        elif how == "refuse":
            self.rooms.encoder.refuse(text)
        else:
            self.rooms.encoder.finish(text, RuntimeError("encoder broke"))
            if name in self.open:
                submission, _ = self.open.pop(name)
                assert isinstance(submission.future.exception(0), RuntimeError)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def caller_leaves(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.open)))
        submission, _ = self.open.pop(name)
        self.rooms.pipeline.withdraw(submission)
        assert submission.future.cancelled()

    @rule()
    def step(self) -> None:
        for work in self.rooms.batcher.step():
            name = name_of(work)
            self.stepped.append(name)
            submission, _ = self.open.pop(name)
            assert submission.future.result(0) == "done"

    @invariant()
    def what_may_go_has_gone_in_order(self) -> None:
        queued = [name for name in self.rooms.queued() if name in self.open]
        blocked: set[str] = set()
        wanted = set()
        for name, (_, users) in self.open.items():
            if name not in self.slow and not blocked & users:
                wanted.add(name)
            else:
                blocked |= users
        assert set(queued) == wanted
        for user in "abc":
            mine = [int(name) for name in queued if user in self.open[name][1]]
            assert mine == sorted(mine)


TestPipelineModel = PipelineModel.TestCase
TestPipelineModel.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


# Content that fails --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_late", [False, True])
def test_bad_content_makes_its_own_event_invalid_and_no_other(rooms: Rooms, is_late: bool) -> None:
    events = [Sent("a", "1", text="bad"), Sent("a", "2", text="good"), Sent("b", "3")]
    submission = rooms.submit(*events)
    for name in ("good", "bad") if is_late else ("bad", "good"):
        rooms.encoder.refuse(name) if name == "bad" else rooms.encoder.finish(name)
    arrival = arrival_in(submission)
    assert rooms.queued() == ["1"]
    assert arrival.valid.tolist() == [False, True, True]
    assert arrival.identified.all()
    assert (arrival.faults[0].field, arrival.faults[0].reason) == ("text", "text: cannot be read")
    assert arrival.faults[0].status is Status.INVALID
    assert arrival.content_rows.tolist() == [1]


def test_a_call_whose_contents_are_all_bad_is_still_answered(rooms: Rooms) -> None:
    submission = rooms.submit(Sent("a", "1", image=b"bad"))
    rooms.encoder.refuse("bad", "image")
    rooms.batcher.step("answer")
    assert submission.future.result(0) == "answer"
    assert arrival_in(submission).faults[0].field == "image"
    assert arrival_in(submission).content_rows.tolist() == []


def test_an_encoder_that_fails_fails_the_whole_call_and_releases_who_waited(rooms: Rooms) -> None:
    failed = rooms.submit(Sent("a", "1", text="slow"), Sent("b", "1"))
    behind = rooms.submit(Sent("a", "2"))
    rooms.encoder.finish("slow", QueueFull("text_encoder", 1, 1, 1, 0.1))
    assert rooms.queued() == ["2"]
    with pytest.raises(QueueFull):
        failed.future.result(0)
    assert not behind.future.done()
    assert rooms.pipeline.waiting_events == 1


def test_no_room_at_the_encoder_refuses_the_call_with_nothing_taken(rooms: Rooms) -> None:
    rooms.encoder.full = True
    with pytest.raises(QueueFull):
        rooms.submit(Sent("a", "1", text="slow"), Sent("b", "2"))
    assert rooms.queued() == []
    assert rooms.pipeline.waiting_events == 0
    rooms.submit(Sent("a", "3"))
    assert rooms.queued() == ["3"]


# Callers that leave --------------------------------------------------------------------------------------------------


def test_who_leaves_while_waiting_releases_those_behind(rooms: Rooms) -> None:
    gone = rooms.submit(Sent("a", "1", text="slow"))
    rooms.submit(Sent("a", "2"))
    rooms.pipeline.withdraw(gone)
    assert rooms.queued() == ["2"]
    assert gone.future.cancelled()
    rooms.encoder.finish("slow")
    assert rooms.queued() == ["2"], "what comes for who has left changes nothing"


def test_who_leaves_from_the_middle_of_the_line_leaves_the_order_of_the_others(rooms: Rooms) -> None:
    rooms.submit(Sent("a", "1", text="slow"))
    middle = rooms.submit(Sent("a", "2"))
    rooms.submit(Sent("a", "3"))
    rooms.pipeline.withdraw(middle)
    rooms.encoder.finish("slow")
    assert rooms.queued() == ["1", "3"]


def test_who_leaves_the_queue_is_not_computed(rooms: Rooms) -> None:
    gone = rooms.submit(Sent("a", "1"))
    stays = rooms.submit(Sent("a", "2"))
    rooms.pipeline.withdraw(gone)
    assert [name_of(work) for work in rooms.batcher.step()] == ["2"]
    assert gone.future.cancelled()
    assert stays.future.result(0) == "done"


def test_one_call_of_a_burst_leaves_and_the_others_go_on(rooms: Rooms) -> None:
    burst = rooms.submit_calls([Sent("a", "1")], [Sent("b", "2")])
    rooms.pipeline.withdraw(burst, 1)
    assert burst.work.cancelled == {1}
    assert not burst.future.cancelled()
    rooms.pipeline.withdraw(burst, 0)
    assert burst.future.cancelled()


def test_who_leaves_after_the_step_changes_nothing(rooms: Rooms) -> None:
    submission = rooms.submit(Sent("a", "1"))
    rooms.batcher.step("answer")
    rooms.pipeline.withdraw(submission)
    assert submission.future.result(0) == "answer"


# Admission -----------------------------------------------------------------------------------------------------------


def test_more_events_than_may_wait_are_refused_by_the_name_of_the_setting_and_nothing_is_taken() -> None:
    rooms = Rooms(PipelineLimits(queue_events=3))
    rooms.submit(Sent("a", "1"), Sent("b", "1"))
    with pytest.raises(QueueFull, match="queue_events"):
        rooms.submit(Sent("c", "2"), Sent("d", "2"))
    rooms.submit(Sent("c", "3"))
    assert rooms.queued() == ["1", "3"]
    with pytest.raises(QueueFull):
        rooms.pipeline.rank(RankWork(key_of("a"), (), 5, NO_FILTER))
    with pytest.raises(QueueFull):
        rooms.pipeline.run(lambda: None)
    rooms.batcher.step()
    rooms.submit(Sent("c", "4"))


def test_events_behind_content_are_counted_apart_so_that_they_find_room_when_they_go_on() -> None:
    rooms = Rooms(PipelineLimits(queue_events=2))
    rooms.submit(Sent("a", "1", text="slow"), Sent("a", "1"))
    with pytest.raises(QueueFull):
        rooms.submit(Sent("a", "2"))
    rooms.submit(Sent("b", "3"), Sent("c", "3"))
    assert rooms.pipeline.waiting_events == 4
    rooms.encoder.finish("slow")
    assert rooms.queued() == ["3", "1"]


def test_an_empty_call_costs_one() -> None:
    rooms = Rooms(PipelineLimits(queue_events=1))
    rooms.submit()
    with pytest.raises(QueueFull):
        rooms.submit()


def test_events_of_a_user_whose_line_is_too_long_are_overloaded_from_the_first_on() -> None:
    rooms = Rooms(PipelineLimits(user_queue_events=3))
    first = rooms.submit(Sent("a", "1", text="slow"), Sent("a", "2"))
    events = [Sent("a", "3"), Sent("b", "4"), Sent("a", "5"), Sent("a", "6", action=""), Sent("a", "7")]
    second = rooms.submit(*events)
    third = rooms.submit(Sent("a", "8"))
    assert arrival_in(first).valid.all()
    assert arrival_in(second).valid.tolist() == [True, True, False, False, False]
    statuses = {row: fault.status for row, fault in arrival_in(second).faults.items()}
    assert statuses == {2: Status.OVERLOADED, 3: Status.INVALID, 4: Status.OVERLOADED}
    assert "at most 3 may (user_queue_events)" in arrival_in(second).faults[2].reason
    assert arrival_in(third).faults[0].status is Status.OVERLOADED
    rooms.encoder.finish("slow")
    assert arrival_in(rooms.submit(Sent("a", "9"))).valid.all()


def test_room_is_room_in_what_may_wait_and_not_in_the_batchers_spare() -> None:
    rooms = Rooms(PipelineLimits(queue_events=10, spare=20))
    rooms.pipeline.room(4)
    assert rooms.batcher.room_asked == [24]


def test_who_waits_for_room_behind_content_is_told_when_the_line_moves() -> None:
    rooms = Rooms(PipelineLimits(queue_events=2))
    rooms.submit(Sent("a", "1", text="slow"), Sent("a", "1"))
    waiting = [rooms.pipeline.room(1), rooms.pipeline.room(2)]
    assert not any(room.done() for room in waiting)
    rooms.encoder.finish("slow")
    assert all(room.result(0) is None for room in waiting)
    gone = rooms.submit(Sent("a", "2", text="slow"), Sent("a", "2"))
    room = rooms.pipeline.room(1)
    rooms.pipeline.withdraw(gone)
    assert room.result(0) is None


def test_a_burst_of_which_one_has_to_wait_is_taken_apart_and_nothing_of_it_was_taken(rooms: Rooms) -> None:
    rooms.submit(Sent("a", "1", text="slow"))
    with pytest.raises(CallsApart):
        rooms.submit_calls([Sent("a", "2")], [Sent("b", "3")])
    assert rooms.pipeline.waiting_events == 1
    rooms.submit_calls([Sent("b", "3")], [Sent("c", "4")])
    assert rooms.queued() == ["3"]


def test_a_call_carries_the_epoch_of_what_it_follows_on_or_of_now() -> None:
    rooms = Rooms()
    rooms.pipeline.epoch = lambda: 5
    assert rooms.submit(Sent("a", "1")).work.epoch == 5
    assert rooms.pipeline.submit(batch_of([Sent("a", "2")]), [Call(0, 1, CallOptions())], 3).work.epoch == 3


def test_a_version_that_is_not_there_is_refused_by_name(rooms: Rooms) -> None:
    with pytest.raises(UnknownModelVersion, match="model 'small' has no version '7'; '1' serves"):
        rooms.submit(Sent("a", "1"), model_version="7")
    rooms.submit(Sent("a", "1"), model_version="1")
    assert rooms.queued() == ["1"]


# Answers -------------------------------------------------------------------------------------------------------------


def test_no_answer_leaves_before_its_commit_is_durable(rooms: Rooms) -> None:
    submission = rooms.submit(Sent("a", "1"))
    durable: Future[None] = Future()
    rooms.batcher.step(Kept(durable))
    assert not submission.future.done()
    durable.set_result(None)
    assert submission.future.result(0) == Kept(durable)


def test_a_commit_that_fails_says_to_send_again(rooms: Rooms) -> None:
    for is_late in (False, True):
        submission = rooms.submit(Sent("a", "1"))
        durable: Future[None] = Future()
        if not is_late:
            durable.set_exception(OSError("disk full"))
        rooms.batcher.step(Kept(durable))
        if is_late:
            durable.set_exception(OSError("disk full"))
        with pytest.raises(StoreUnavailable, match="disk full; send them again"):
            submission.future.result(0)


def test_the_failure_of_a_step_is_the_callers(rooms: Rooms) -> None:
    submission = rooms.submit(Sent("a", "1"))
    rooms.batcher.step(ValueError("broken"))
    with pytest.raises(ValueError, match="broken"):
        submission.future.result(0)


def test_an_answer_to_a_caller_who_left_after_the_step_is_dropped(rooms: Rooms) -> None:
    submission = rooms.submit(Sent("a", "1"))
    durable: Future[None] = Future()
    rooms.batcher.step(Kept(durable))
    submission.future.cancel()
    durable.set_result(None)
    with pytest.raises(CancelledError):
        submission.future.result(0)


def test_a_batcher_that_is_closed_meanwhile_leaves_nobody_waiting_for_ever(rooms: Rooms) -> None:
    waiting = rooms.submit(Sent("a", "1", text="slow"))
    behind = [rooms.submit(Sent("a", "2")), rooms.submit(Sent("a", "3"))]
    rooms.batcher.closed = BatcherClosed("small")
    rooms.encoder.finish("slow")
    for submission in (waiting, *behind):
        assert isinstance(submission.future.exception(0), BatcherClosed)
    with pytest.raises(BatcherClosed):
        rooms.submit(Sent("a", "4"))


def test_who_leaves_a_closed_batchers_line_leaves_nobody_waiting_for_ever(rooms: Rooms) -> None:
    waiting = rooms.submit(Sent("a", "1", text="slow"))
    behind = rooms.submit(Sent("a", "2"))
    rooms.batcher.closed = BatcherClosed("small")
    rooms.pipeline.withdraw(waiting)
    assert isinstance(behind.future.exception(0), BatcherClosed)
