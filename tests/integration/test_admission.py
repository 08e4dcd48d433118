"""Admission: what is too much is refused at once or waits, and nobody else pays for it."""

from typing import Any

import pytest
from support.event_makers import arrow_message, event, new_name, predict, rows_message, story
from support.gated_content import Gate
from support.open_stream import OpenStream
from support.refusals import refusal_of, refused
from support.serving import PATIENCE, Serving, StartServer

from nextact.v1 import behavior_pb2 as pb

ACCEPTED, OVERLOADED = pb.EVENT_STATUS_ACCEPTED, pb.EVENT_STATUS_OVERLOADED


def slow(user: str, count: int, **fields: Any) -> list[pb.Event]:
    """Events whose contents wait while the gate is closed."""
    return [event(user, at, text=new_name("text"), **fields) for at in range(count)]


def seen(server: Serving, user: str) -> int:
    return int(server.stub.Rank(pb.RankRequest(user_id=user, top_k=1)).events_seen)


def all_read(server: Serving) -> None:
    """Returns once the server had every reason to read what was sent before."""
    for _ in range(20):
        server.stub.Predict(predict([event(new_name())], top_k=1))


def test_a_full_queue_refuses_a_call_at_once_with_a_time_to_try_again(start_server: StartServer, gate: Gate) -> None:
    server = start_server(queue_events=6)
    user, late_comer = new_name(), new_name()
    gate.close()
    waiting = server.stub.Predict.future(predict(slow(user, 4)))
    gate.await_waiting(4)
    refusal = refused(lambda: server.stub.Predict(predict(slow(late_comer, 3))))
    assert refusal.code.name == "RESOURCE_EXHAUSTED"
    assert "queue_events" in refusal.message
    assert "6" in refusal.message
    assert refusal.retry_s is not None
    assert refusal.retry_s > 0
    assert seen(server, late_comer) == 0
    assert server.stub.Predict(predict(story(new_name(), 5))).results[0].status == ACCEPTED
    gate.open()
    assert len(waiting.result(PATIENCE).results) == 4
    assert server.stub.Predict(predict(slow(late_comer, 3))).results[0].status == ACCEPTED


def test_a_stream_waits_for_room_instead_of_being_refused(start_server: StartServer, gate: Gate) -> None:
    server = start_server(queue_events=6)
    user = new_name()
    gate.close()
    stream = OpenStream(server.channel)
    stream.send(*(rows_message(1 + at, slow(user, 4, message_id="")) for at in range(5)))
    gate.await_waiting(4)
    all_read(server)
    assert seen(server, user) == 0
    gate.open()
    assert [answer.accepted for answer in stream.rest()] == [4] * 5
    assert seen(server, user) == 20


def test_a_stream_that_waits_for_room_costs_nothing_meanwhile(start_server: StartServer, gate: Gate) -> None:
    import nextact_server.pipeline as pipeline

    server = start_server(queue_events=6)
    tries: list[int] = []
    real = pipeline.arrive
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "arrive", lambda *arguments: tries.append(1) or real(*arguments))
        gate.close()
        stream = OpenStream(server.channel)
        stream.send(*(rows_message(1 + at, slow(new_name(), 4)) for at in range(2)))
        gate.await_waiting(4)
        all_read(server)
        gate.open()
        assert [answer.accepted for answer in stream.rest()] == [4, 4]
    assert len(tries) <= 20 + 6


def test_a_message_larger_than_the_queue_can_ever_hold_is_refused(start_server: StartServer) -> None:
    server = start_server(queue_events=6)
    stream = OpenStream(server.channel).send(rows_message(1, story(new_name(), 7)))
    refusal = refusal_of(stream.failure()[1])
    assert refusal.code.name == "RESOURCE_EXHAUSTED"
    assert refused(lambda: server.stub.Predict(predict(story(new_name(), 7)))).code.name == "RESOURCE_EXHAUSTED"


def test_one_users_over_long_queue_is_overloaded_from_there_on_and_nobody_else(
    start_server: StartServer, gate: Gate
) -> None:
    server = start_server(user_queue_events=5)
    user, neighbour = new_name(), new_name()
    gate.close()
    first = server.stub.Predict.future(predict(slow(user, 3)))
    gate.await_waiting(3)
    events = [event(user, 10), event(neighbour, 10), event(user, 11), event(user, 12), event(user, 13)]
    second = server.stub.Predict.future(predict(events))
    all_read(server)
    third = server.stub.Predict.future(predict([event(user, 14)]))
    all_read(server)
    gate.open()
    assert [result.status for result in first.result(PATIENCE).results] == [ACCEPTED] * 3
    results = second.result(PATIENCE).results
    assert [result.status for result in results] == [ACCEPTED, ACCEPTED, ACCEPTED, OVERLOADED, OVERLOADED]
    assert "user_queue_events" in results[3].reason
    assert third.result(PATIENCE).results[0].status == OVERLOADED
    assert seen(server, user) == 5
    again = server.stub.Predict(predict([*events, event(user, 14)]))
    assert [result.status for result in again.results[3:]] == [ACCEPTED] * 3


def test_a_stream_reads_no_further_than_its_window(start_server: StartServer, gate: Gate) -> None:
    server = start_server(stream_window_messages=3)
    user = new_name()
    gate.close()
    stream = OpenStream(server.channel)
    assert dict(stream.call.initial_metadata())["nextact-window"].startswith("messages=3,")
    stream.send(*(arrow_message(1 + at, slow(user, 1)) for at in range(10)))
    gate.await_waiting(3)
    all_read(server)
    assert gate.waiting == 3
    gate.open()
    assert [answer.number for answer in stream.rest()] == list(range(1, 11))


def test_the_window_counts_bytes_and_one_larger_message_goes_alone(start_server: StartServer, gate: Gate) -> None:
    server = start_server(stream_window_bytes=3000)
    gate.close()
    stream = OpenStream(server.channel)
    sizes = (1000, 1000, 4000, 100)
    stream.send(
        *(rows_message(1 + at, [event(new_name(), text="x" * size + str(at))]) for at, size in enumerate(sizes))
    )
    gate.await_waiting(2)
    all_read(server)
    assert gate.waiting == 2
    gate.open()
    assert [answer.number for answer in stream.rest()] == [1, 2, 3, 4]


def test_a_client_that_stops_reading_stops_the_servers_reading_too(start_server: StartServer) -> None:
    server = start_server()
    users = [new_name() for _ in range(120)]
    stream = OpenStream(server.channel)
    for at, user in enumerate(users):
        events = [event(user, number) for number in range(1000)]
        stream.send(arrow_message(1 + at, events, "EVERY_EVENT", top_k=60))
    assert stream.receive().accepted == 1000
    all_read(server)
    all_read(server)
    # The window, and what lies in the buffers of the sockets between.
    assert sum(seen(server, user) > 0 for user in users) < 80
    assert [answer.number for answer in stream.rest()] == list(range(2, 121))
