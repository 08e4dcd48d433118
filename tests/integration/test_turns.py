"""Turns: a user's events keep their order, nobody else waits, and who goes away gives the place back."""

from typing import Any

import pytest
from support.event_makers import arrow_message, event, new_name, predict, rows_message
from support.gated_content import BROKEN, Gate
from support.open_stream import OpenStream
from support.refusals import refusal_of
from support.serving import PATIENCE, Serving, StartServer

from nextact.v1 import behavior_pb2 as pb

ACCEPTED, INVALID = pb.EVENT_STATUS_ACCEPTED, pb.EVENT_STATUS_INVALID


@pytest.fixture
def server(start_server: StartServer) -> Serving:
    return start_server()


def history(server: Serving, user: str) -> list[str]:
    """Message ids, oldest first."""
    held = server.stub.GetUser(pb.GetUserRequest(user_id=user)).history
    return [entry.event.message_id for entry in reversed(held)]


def waiting_call(server: Serving, gate: Gate, user: str, name: str, **arguments: Any) -> Any:
    """A Predict whose content waits at the gate."""
    gate.close()
    call = server.stub.Predict.future(predict([event(user, text=f"{user} {name}", message_id=name)]), **arguments)
    gate.await_waiting(1)
    return call


def test_a_users_later_events_wait_for_an_earlier_image_and_other_users_go_ahead(server: Serving, gate: Gate) -> None:
    user = new_name()
    first = waiting_call(server, gate, user, "first")
    second = server.stub.Predict.future(predict([event(user, 1, message_id="second")]))
    third = OpenStream(server.channel).send(rows_message(1, [event(user, 2, message_id="third")]))
    for _ in range(3):
        assert server.stub.Predict(predict([event(new_name())])).results[0].status == ACCEPTED
    assert not first.done()
    assert not second.done()
    gate.open()
    assert second.result(PATIENCE).predictions[0].events_seen >= 2
    assert third.rest()[0].accepted == 1
    assert history(server, user)[0] == "first"
    assert sorted(history(server, user)) == ["first", "second", "third"]


def test_a_users_calls_keep_their_order_with_and_without_content(server: Serving, gate: Gate) -> None:
    user = new_name()
    calls = [waiting_call(server, gate, user, "0")]
    for number in range(1, 9):
        text = f"words {number}" if number % 3 == 0 else ""
        calls.append(server.stub.Predict.future(predict([event(user, number, text=text, message_id=str(number))])))
        server.stub.Predict(predict([event(new_name())]))  # the one before has arrived
    gate.open()
    for call in calls:
        assert call.result(PATIENCE).results[0].status == ACCEPTED
    assert history(server, user) == [str(number) for number in range(9)]


def test_a_cancelled_call_gives_its_place_back(server: Serving, gate: Gate) -> None:
    user = new_name()
    first = waiting_call(server, gate, user, "first")
    second = server.stub.Predict.future(predict([event(user, 1, message_id="second")]))
    server.stub.Predict(predict([event(new_name())]))
    assert not second.done()
    first.cancel()
    assert second.result(PATIENCE).predictions[0].events_seen == 1  # the gate is still closed
    gate.open()
    server.stub.Predict(predict([event(new_name())]))
    assert history(server, user) == ["second"]


def test_a_cancelled_call_in_the_middle_lets_the_others_keep_their_order(server: Serving, gate: Gate) -> None:
    user = new_name()
    first = waiting_call(server, gate, user, "first")
    second = server.stub.Predict.future(predict([event(user, 1, text="middle", message_id="second")]))
    gate.await_waiting(2)
    third = server.stub.Predict.future(predict([event(user, 2, message_id="third")]))
    server.stub.Predict(predict([event(new_name())]))
    second.cancel()
    gate.open()
    assert first.result(PATIENCE).results[0].status == ACCEPTED
    assert third.result(PATIENCE).results[0].status == ACCEPTED
    assert [name for name in history(server, user) if name != "second"] == ["first", "third"]


def test_a_deadline_that_passes_during_encoding_ends_the_call_and_frees_the_user(server: Serving, gate: Gate) -> None:
    user = new_name()
    first = waiting_call(server, gate, user, "first", timeout=0.4)
    second = server.stub.Predict.future(predict([event(user, 1, message_id="second")]))
    assert refusal_of(first.exception(PATIENCE)).code.name == "DEADLINE_EXCEEDED"
    assert second.result(PATIENCE).predictions[0].events_seen == 1  # the gate is still closed
    gate.open()
    assert history(server, user) == ["second"]


def test_a_client_that_goes_away_in_mid_stream_frees_its_users(server: Serving, gate: Gate) -> None:
    user = new_name()
    gate.close()
    stream = OpenStream(server.channel)
    stream.send(*(arrow_message(1 + at, [event(user, at, text=f"{user} {at}")]) for at in range(4)))
    gate.await_waiting(4)
    behind = server.stub.Predict.future(predict([event(user, 9, message_id="behind")]))
    server.stub.Predict(predict([event(new_name())]))
    assert not behind.done()
    stream.cancel()
    assert behind.result(PATIENCE).predictions[0].events_seen == 1
    assert history(server, user) == ["behind"]


def test_content_that_fails_releases_those_behind_it(server: Serving, gate: Gate) -> None:
    user = new_name()
    gate.close()
    first = server.stub.Predict.future(predict([event(user, 0, image=BROKEN), event(user, 1, message_id="good")]))
    gate.await_waiting(1)
    second = server.stub.Predict.future(predict([event(user, 2, message_id="second")]))
    server.stub.Predict(predict([event(new_name())]))
    gate.open()
    assert [result.status for result in first.result(PATIENCE).results] == [INVALID, ACCEPTED]
    assert second.result(PATIENCE).results[0].status == ACCEPTED
    assert history(server, user) == ["good", "second"]


def test_two_users_of_one_call_are_released_together_and_only_their_events_wait(server: Serving, gate: Gate) -> None:
    ada, bob = new_name(), new_name()
    gate.close()
    both = server.stub.Predict.future(predict([event(ada, 0, text=f"of {ada}"), event(bob, 0)]))
    gate.await_waiting(1)
    later = server.stub.Predict.future(predict([event(bob, 1)]))
    server.stub.Predict(predict([event(new_name())]))
    assert not later.done()
    gate.open()
    assert len(both.result(PATIENCE).predictions) == 2
    assert later.result(PATIENCE).predictions[0].events_seen == 2


def test_an_erasure_waits_its_turn_behind_content(server: Serving, gate: Gate) -> None:
    user = new_name()
    first = waiting_call(server, gate, user, "first")
    erased = server.stub.DeleteUser.future(pb.DeleteUserRequest(user_id=user))
    server.stub.Predict(predict([event(new_name())]))
    assert not erased.done()
    gate.open()
    assert first.result(PATIENCE).results[0].status == ACCEPTED
    assert erased.result(PATIENCE).existed is True


def test_a_stream_acknowledges_in_order_though_a_later_message_was_ready_first(server: Serving, gate: Gate) -> None:
    gate.close()
    stream = OpenStream(server.channel)
    stream.send(rows_message(1, [event(new_name(), text="slow")]), rows_message(2, [event(new_name())]))
    gate.await_waiting(1)
    other = OpenStream(server.channel).send(rows_message(1, [event(new_name())]))
    assert other.rest()[0].accepted == 1
    gate.open()
    assert [answer.number for answer in stream.rest()] == [1, 2]


def test_dry_runs_wait_for_the_users_earlier_events_too(server: Serving, gate: Gate) -> None:
    user = new_name()
    first = waiting_call(server, gate, user, "first")
    supposed = server.stub.Predict.future(predict([event(user, 1)], dry_run=True))
    server.stub.Predict(predict([event(new_name())]))
    assert not supposed.done()
    assert not first.done()
    gate.open()
    assert supposed.result(PATIENCE).predictions[0].events_seen == 2
