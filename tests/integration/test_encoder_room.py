"""The encoders' queue: streams wait for room in it, single calls are refused, and nothing of these is applied."""

import pytest
from support.event_makers import event, new_name, predict, rows_message
from support.gated_content import Gate, gated_encoder
from support.open_stream import OpenStream
from support.refusals import refused
from support.serving import PATIENCE, Serving, StartServer

from nextact.v1 import behavior_pb2 as pb
from nextact_server.features.admission import AdmissionLimits


@pytest.fixture
def server(start_server: StartServer, gate: Gate) -> Serving:
    return start_server(content=gated_encoder(gate, AdmissionLimits(items=50)))


def shown(user: str, count: int) -> list[pb.Event]:
    """Events each with a text that nobody has seen."""
    return [event(user, at, text=new_name("text"), message_id="") for at in range(count)]


def seen(server: Serving, user: str) -> int:
    return int(server.stub.Rank(pb.RankRequest(user_id=user, top_k=1)).events_seen)


def all_read(server: Serving) -> None:
    """Returns once the server had every reason to read what was sent before."""
    for _ in range(20):
        server.stub.Predict(predict([event(new_name())], top_k=1))


def test_a_stream_of_messages_each_over_the_encoders_queue_is_acknowledged_whole_and_in_order(
    server: Serving, gate: Gate
) -> None:
    user = new_name()
    gate.close()
    stream = OpenStream(server.channel).send(*(rows_message(1 + at, shown(user, 200)) for at in range(6)))
    gate.await_waiting(200)
    all_read(server)
    assert gate.waiting == 200
    gate.open()
    answers = stream.rest()
    assert [(answer.number, answer.accepted) for answer in answers] == [(1 + at, 200) for at in range(6)]
    assert seen(server, user) == 1200


def test_streams_that_share_the_encoders_queue_all_go_on(server: Serving, gate: Gate) -> None:
    gate.close()
    streams = [OpenStream(server.channel) for _ in range(3)]
    for stream in streams:
        stream.send(*(rows_message(1 + at, shown(new_name(), 30)) for at in range(4)))
    gate.await_waiting(30)
    all_read(server)
    assert gate.waiting == 30
    gate.open()
    for stream in streams:
        assert [(answer.number, answer.accepted) for answer in stream.rest()] == [(1 + at, 30) for at in range(4)]


def test_a_stream_that_waits_for_the_encoders_costs_nothing_meanwhile(server: Serving, gate: Gate) -> None:
    import nextact_server.pipeline as pipeline

    tries: list[int] = []
    real = pipeline.arrive
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "arrive", lambda *arguments: tries.append(1) or real(*arguments))
        gate.close()
        stream = OpenStream(server.channel).send(*(rows_message(1 + at, shown(new_name(), 40)) for at in range(2)))
        gate.await_waiting(40)
        all_read(server)
        gate.open()
        assert [answer.accepted for answer in stream.rest()] == [40, 40]
    assert len(tries) <= 20 + 6


def test_a_call_over_the_encoders_queue_is_refused_with_a_time_to_try_again_and_nothing_is_applied(
    server: Serving, gate: Gate
) -> None:
    user = new_name()
    gate.close()
    waiting = server.stub.Predict.future(predict(shown(new_name(), 40)))
    gate.await_waiting(40)
    late = predict([event(user), *shown(user, 11)])
    refusal = refused(lambda: server.stub.Predict(late))
    assert refusal.code.name == "RESOURCE_EXHAUSTED"
    assert "encoder_queue" in refusal.message
    assert "50" in refusal.message
    assert refusal.retry_s is not None
    assert refusal.retry_s > 0
    assert gate.waiting == 40
    assert seen(server, user) == 0
    gate.open()
    assert len(waiting.result(PATIENCE).results) == 40
    assert len(server.stub.Predict(late).results) == 12
