"""Requests of the next-action model on their way to the users: together where they can, apart where they must."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from nextact_server.events.arrival import arrive
from nextact_server.events.batch import EventBatch
from nextact_server.events.call import Answer, Call, Predictions
from nextact_server.events.status import Status
from nextact_server.events.validation import EventLimits
from nextact_server.inference.batcher import QueueFull
from nextact_server.inference.infer_errors import ErrorCode, InferError
from nextact_server.inference.infer_request import InferRequest, InferResponse
from nextact_server.inference.statistics import ModelStatistics
from nextact_server.own_models.next_action import NextActionScheduler
from nextact_server.own_models.next_action_outputs import NextActionOutputs
from nextact_server.pipeline import CallsApart, Submission
from nextact_server.sequence.journal import StoreUnavailable
from nextact_server.sequence.stage import EventWork

DIM, ACTIONS, ITEMS = 3, 2, 5


class Users:
    """Keeps what is submitted until the test answers it; `refuses` may raise."""

    def __init__(self) -> None:
        self.submissions: list[Submission] = []
        self.withdrawn: list[tuple[Submission, int]] = []
        self.refuses: Callable[[Sequence[Call]], None] = lambda calls: None

    def submit(self, batch: EventBatch, calls: Sequence[Call], epoch: int | None = None) -> Submission:
        self.refuses(calls)
        arrival = arrive(batch, calls, EventLimits(), {}, 1_700_000_000_000_000)
        submission = Submission(EventWork(arrival), cost=batch.size)
        self.submissions.append(submission)
        return submission

    def withdraw(self, submission: Submission, call: int = 0) -> None:
        self.withdrawn.append((submission, call))

    def users(self) -> list[list[str]]:
        return [arrival_of(one).batch.user_id.to_pylist() for one in self.submissions]


class Sink:
    def __init__(self) -> None:
        self.got: list[Any] = []

    def respond(self, request: InferRequest, response: Any, final: bool) -> None:
        assert final
        self.got.append(response)

    def only(self) -> Any:
        [response] = self.got
        return response


def arrival_of(submission: Submission) -> Any:
    assert isinstance(submission.work, EventWork)
    return submission.work.arrival


def request(user: int | str, *actions: bytes, **more: Any) -> InferRequest:
    column = np.array(actions, np.object_).reshape(-1, 1)
    return InferRequest({"action": column}, Sink(), batch_size=len(actions), correlation_id=user, **more)


def answer(submission: Submission, status: Status = Status.ACCEPTED) -> None:
    """Every call gets one prediction, whose numbers are its position."""
    arrival = arrival_of(submission)
    rows, calls = arrival.batch.size, len(arrival.calls)
    order = np.arange(calls)
    predictions = Predictions(
        call=order,
        row=np.array([call.stop - 1 for call in arrival.calls]),
        events_seen=order + 1,
        embedding=np.repeat(order, DIM).reshape(calls, DIM).astype(np.float32),
        actions=np.full((calls, ACTIONS), 0.5, np.float32),
        item_rows=np.tile(np.arange(ITEMS), (calls, 1)),
        item_scores=np.zeros((calls, ITEMS), np.float32),
    )
    durable: Future[None] = Future()
    durable.set_result(None)
    kept = np.full(rows, int(status), np.int8)
    nothing = np.zeros(rows, np.int8)
    submission.future.set_result(Answer(arrival, kept, nothing, nothing > 0, predictions, durable))


@pytest.fixture
def users() -> Users:
    return Users()


@pytest.fixture
def statistics() -> ModelStatistics:
    return ModelStatistics()


@pytest.fixture
def scheduler(users: Users, statistics: ModelStatistics) -> NextActionScheduler:
    outputs = NextActionOutputs(
        lambda rows: [f"item-{row}" for row in rows.tolist()],
        embedding_dim=DIM,
        actions=ACTIONS,
        default_top_k=ITEMS,
        max_top_k=10,
    )
    return NextActionScheduler(users, outputs, statistics, name="next_action", max_rows=4)


def submit(scheduler: NextActionScheduler, statistics: ModelStatistics, *requests: InferRequest) -> list[Any]:
    statistics.entered(len(requests))
    scheduler.submit(requests)
    return [one.sink for one in requests]


def test_requests_that_arrive_together_take_one_step_and_get_their_own_rows(
    scheduler: NextActionScheduler, users: Users, statistics: ModelStatistics
) -> None:
    first, second = submit(scheduler, statistics, request(7, b"view", b"like"), request("ada", b"buy"))
    assert users.users() == [["7", "7", "ada"]]
    answer(users.submissions[0])
    assert first.only().outputs["events_seen"].tolist() == [[1], [2]]
    assert second.only().outputs["embedding"].tolist() == [[2.0] * DIM]
    counts = statistics.snapshot()
    assert (counts.inference_count, counts.execution_count, counts.pending) == (3, 1, 0)


def test_a_bad_request_is_answered_by_itself(
    scheduler: NextActionScheduler, users: Users, statistics: ModelStatistics
) -> None:
    good, unnamed, long = submit(
        scheduler, statistics, request("a", b"view"), request(0, b"view"), request("b", *[b"view"] * 5)
    )
    assert users.users() == [["a"]]
    for sink in (unnamed, long):
        assert sink.only().code is ErrorCode.INVALID_ARG
    answer(users.submissions[0])
    assert isinstance(good.only(), InferResponse)
    assert statistics.snapshot().pending == 0


def test_those_who_would_have_to_wait_for_one_of_them_go_apart(
    scheduler: NextActionScheduler, users: Users, statistics: ModelStatistics
) -> None:
    def refuses(calls: Sequence[Call]) -> None:
        if len(calls) > 1:
            raise CallsApart

    users.refuses = refuses
    waits, other = submit(scheduler, statistics, request("a", b"view", b"like"), request("b", b"view"))
    assert users.users() == [["a", "a"], ["b"]]
    answer(users.submissions[1])
    assert isinstance(other.only(), InferResponse)
    assert waits.got == []
    answer(users.submissions[0])
    assert waits.only().outputs["events_seen"].tolist() == [[1], [1]]


def test_what_is_too_much_at_once_is_tried_one_by_one(
    scheduler: NextActionScheduler, users: Users, statistics: ModelStatistics
) -> None:
    def refuses(calls: Sequence[Call]) -> None:
        if len(calls) > 1:
            raise QueueFull("next_action (queue_events)", 2, 1, len(calls), 0.1)

    users.refuses = refuses
    large, small = submit(scheduler, statistics, request("a", b"view", b"like"), request("b", b"view"))
    assert large.only().code is ErrorCode.EXHAUSTED
    assert large.only().retry_after_s == 0.1
    assert users.users() == [["b"]]
    answer(users.submissions[0])
    assert isinstance(small.only(), InferResponse)


def test_a_caller_who_leaves_takes_its_own_rows_back(
    scheduler: NextActionScheduler, users: Users, statistics: ModelStatistics
) -> None:
    requests = [request("a", b"view"), request("b", b"view", b"like"), request("c", b"view")]
    sinks = submit(scheduler, statistics, *requests)
    requests[1].cancel()
    assert [call for _, call in users.withdrawn] == [1, 2]
    answer(users.submissions[0])
    assert [isinstance(sink.only(), InferResponse) for sink in sinks] == [True, False, True]
    assert sinks[1].only().code is ErrorCode.CANCELLED


def test_a_store_that_failed_is_unavailable_to_all(
    scheduler: NextActionScheduler, users: Users, statistics: ModelStatistics
) -> None:
    sinks = submit(scheduler, statistics, request("a", b"view"), request("b", b"view"))
    users.submissions[0].future.set_exception(StoreUnavailable("the disk is full"))
    for sink in sinks:
        error = sink.only()
        assert isinstance(error, InferError)
        assert error.code is ErrorCode.UNAVAILABLE
        assert "the disk is full" in error.message
    assert statistics.snapshot().pending == 0


def test_every_row_that_brings_no_message_id_gets_one_of_its_own(
    scheduler: NextActionScheduler, users: Users, statistics: ModelStatistics
) -> None:
    submit(scheduler, statistics, request("a", b"view", b"view"))
    ids = arrival_of(users.submissions[0]).batch.message_id.to_pylist()
    assert len(set(ids)) == 2
    assert all(ids)


@pytest.mark.parametrize(("asked", "given"), [({}, ITEMS), ({"top_k": 2}, 2)])
def test_top_k_says_how_many_items_come(
    scheduler: NextActionScheduler, users: Users, statistics: ModelStatistics, asked: dict[str, int], given: int
) -> None:
    [sink] = submit(scheduler, statistics, request("a", b"view", parameters=asked))
    answer(users.submissions[0])
    assert sink.only().outputs["item_ids"].shape == (1, given)
    assert sink.only().outputs["item_ids"][0, 1] == b"item-1"
