"""Event time: who is late, what becomes of the late, and how far ahead a clock may be."""

import time

import pytest
from support.event_makers import SECOND, START_US, event, new_name, predict, stamp
from support.serving import Serving, StartServer

from nextact.v1 import behavior_pb2 as pb

ACCEPTED, INVALID, LATE = pb.EVENT_STATUS_ACCEPTED, pb.EVENT_STATUS_INVALID, pb.EVENT_STATUS_LATE


def send(server: Serving, *events: pb.Event) -> pb.PredictResponse:
    return server.stub.Predict(predict(events, top_k=1))


def statuses(answer: pb.PredictResponse) -> list[int]:
    return [result.status for result in answer.results]


def test_an_event_is_late_by_more_than_the_allowed_lateness_only(server: Serving) -> None:
    user = new_name()
    answer = send(server, event(user, 100), event(user, 40), event(user, 39.999999), event(user, 100))
    assert statuses(answer) == [ACCEPTED, ACCEPTED, LATE, ACCEPTED]


def test_lateness_is_measured_across_calls(server: Serving) -> None:
    user = new_name()
    send(server, event(user, 100))
    assert statuses(send(server, event(user, 39)))[0] == LATE
    assert statuses(send(server, event(user, 41)))[0] == ACCEPTED


def test_one_users_newest_event_makes_no_other_user_late(server: Serving) -> None:
    assert statuses(send(server, event(new_name(), 900), event(new_name(), 0))) == [ACCEPTED, ACCEPTED]


def test_a_late_event_advances_the_state_at_the_newest_time(server: Serving) -> None:
    user = new_name()
    answer = send(server, event(user, 100), event(user, 0))
    assert [result.applied for result in answer.results] == [True, True]
    assert answer.predictions[0].events_seen == 2
    entry = server.stub.GetUser(pb.GetUserRequest(user_id=user)).history[0]
    assert (entry.status, entry.applied) == (LATE, True)
    assert entry.event.event_time.ToMicroseconds() == START_US
    assert entry.effective_time.ToMicroseconds() == START_US + 100 * SECOND


def test_a_late_event_is_recorded_and_not_applied_where_the_setting_says_so(start_server: StartServer) -> None:
    server = start_server(apply_late_events=False, allowed_lateness_seconds=10.0)
    user = new_name()
    before = send(server, event(user, 100))
    answer = send(server, event(user, 89), event(user, 90))
    assert statuses(answer) == [LATE, ACCEPTED]
    assert [result.applied for result in answer.results] == [False, True]
    late_only = send(server, event(user, 10))
    held = server.stub.GetUser(pb.GetUserRequest(user_id=user))
    assert (held.events_seen, len(held.history)) == (2, 4)
    assert [entry.applied for entry in held.history] == [False, True, False, True]
    assert before.predictions[0].events_seen == 1
    assert list(late_only.predictions[0].embedding) == list(answer.predictions[0].embedding)


def test_times_ahead_are_valid_up_to_five_minutes(server: Serving) -> None:
    now = time.time_ns() // 1000
    user = new_name()
    answer = send(
        server,
        event(user, event_time=stamp(now + 299 * SECOND)),
        event(user, event_time=stamp(now + 301 * SECOND)),
    )
    assert statuses(answer) == [ACCEPTED, INVALID]
    result = answer.results[1]
    assert result.field == "event_time"
    assert "300 s" in result.reason
    assert "max_future_seconds" in result.reason


@pytest.mark.parametrize("seconds", [-62_135_596_800, -1, 0, 1])
def test_the_far_past_is_valid(server: Serving, seconds: int) -> None:
    user = new_name()
    one = event(user, event_time=stamp(seconds * SECOND))
    answer = send(server, one, event(user, 0))
    assert statuses(answer) == [ACCEPTED, ACCEPTED]
    assert server.stub.GetUser(pb.GetUserRequest(user_id=user)).history[1].event.event_time == one.event_time


@pytest.mark.parametrize(
    ("seconds", "nanos"),
    [
        (2**62, 0),
        (-(2**62), 0),
        (2**63 - 1, 999_999_999),
        (-(2**63), 0),
        (0, -1),
        (0, 1_000_000_000),
        (-62_135_596_801, 0),
    ],
)
def test_what_is_no_time_is_invalid_and_its_neighbour_is_not(server: Serving, seconds: int, nanos: int) -> None:
    user = new_name()
    broken = event(user)
    broken.event_time.seconds, broken.event_time.nanos = seconds, nanos
    answer = send(server, broken, event(user))
    assert statuses(answer) == [INVALID, ACCEPTED]
    assert answer.results[0].field == "event_time"


def test_a_missing_time_is_invalid(server: Serving) -> None:
    one = event(new_name())
    one.ClearField("event_time")
    (result,) = send(server, one).results
    assert (result.status, result.field) == (INVALID, "event_time")


@pytest.mark.parametrize(("seconds", "nanos"), [(2**62, 0), (0, -1), (-(2**63), 0)])
def test_a_sent_at_that_is_no_time_fails_nothing(server: Serving, seconds: int, nanos: int) -> None:
    user = new_name()
    one = event(user)
    one.sent_at.seconds, one.sent_at.nanos = seconds, nanos
    answer = send(server, one, event(user))
    assert answer.results[1].status == ACCEPTED
    assert answer.results[0].status in (ACCEPTED, INVALID)
    assert len(server.stub.GetUser(pb.GetUserRequest(user_id=user)).history) >= 1


def test_nanoseconds_are_kept_to_the_microsecond(server: Serving) -> None:
    user = new_name()
    one = event(user)
    one.event_time.nanos = 123_456_789
    send(server, one)
    held = server.stub.GetUser(pb.GetUserRequest(user_id=user)).history[0].event
    assert held.event_time.nanos == 123_456_000


@pytest.mark.parametrize(("seconds", "nanos"), [(2**62, 0), (0, -1), (-(2**62), 0)])
def test_an_as_of_that_is_no_time_is_refused_by_name(server: Serving, seconds: int, nanos: int) -> None:
    from support.refusals import refused

    request = predict([event(new_name())])
    request.options.as_of.seconds, request.options.as_of.nanos = seconds, nanos
    refusal = refused(lambda: server.stub.Predict(request))
    assert (refusal.code.name, refusal.fields) == ("INVALID_ARGUMENT", ("options.as_of",))
    rank = pb.RankRequest(user_id="ada", as_of=request.options.as_of)
    assert refused(lambda: server.stub.Rank(rank)).fields == ("as_of",)


def test_as_of_never_reaches_the_state(server: Serving) -> None:
    user, twin = new_name(), new_name()
    send(server, event(user, 0))
    server.stub.Predict(predict([event(twin, 0)], as_of=stamp(START_US + 10**13)))
    first, second = (send(server, event(name, 5)).predictions[0] for name in (user, twin))
    assert list(first.embedding) == pytest.approx(list(second.embedding), abs=1e-6)
