"""The load generator speaks gRPC as gRPC's own server understands it, and the messages it sends differ."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from bench.http2 import run_load
from bench.load_worker import _outcomes
from bench.messages import arrow_message, movie_titles, predict_message
from bench.pictures import pictures
from nextact.v1 import behavior_pb2 as pb
from nextact_server.events.arrow import read_events

PATH = "/test.Echo/Call"


@pytest.fixture
def port() -> Iterator[int]:
    """A server that answers with what it got, and refuses messages that begin with a zero byte."""

    def call(request: bytes, context: Any) -> bytes:
        if request.startswith(b"\0"):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "begins with zero")
        return b"answer to " + request

    server = grpc.server(ThreadPoolExecutor(4))
    handlers = {"Call": grpc.unary_unary_rpc_method_handler(call)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
    bound = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield bound
    server.stop(None).wait()


def test_every_call_gets_the_answer_to_its_own_message(port: int) -> None:
    messages = [b"message %d" % number for number in range(200)]
    load = run_load("127.0.0.1", port, PATH, messages, concurrency=8, warm_up=20)
    assert load.answers == [b"answer to " + message for message in messages[20:]]
    assert len(load.latencies) == 180
    assert all(0 < seconds <= load.seconds for seconds in load.latencies)


def test_more_is_sent_than_a_first_flow_control_window_holds(port: int) -> None:
    messages = [bytes([65 + number]) * 20_000 for number in range(20)]
    load = run_load("127.0.0.1", port, PATH, messages, concurrency=16)
    assert load.answers == [b"answer to " + message for message in messages]


def test_a_call_that_fails_has_no_answer_and_the_others_have_theirs(port: int) -> None:
    load = run_load("127.0.0.1", port, PATH, [b"a", b"\0b", b"c"], concurrency=2)
    assert load.answers == [b"answer to a", None, b"answer to c"]


def test_predict_messages_are_events_of_their_own() -> None:
    messages = {predict_message(number, "ada", "1", ["EMBEDDING", "ITEMS"]) for number in range(100)}
    assert len(messages) == 100
    ids = {pb.PredictRequest.FromString(message).events[0].message_id for message in messages}
    assert len(ids) == 100


def test_arrow_messages_are_read_as_the_events_they_were_made_of() -> None:
    request = pb.StreamEventsRequest.FromString(arrow_message(7, ["ada", "bob"], ["1", "2"], first_event=40))
    batch = read_events(request.arrow_ipc, max_events=10, max_decoded_bytes=1000)
    assert request.number == 7
    assert batch.user_id.to_pylist() == ["ada", "bob"]
    assert batch.item_id.to_pylist() == ["1", "2"]
    assert batch.message_id.to_pylist() == ["bench-000000000040", "bench-000000000041"]
    assert batch.event_time[1] - batch.event_time[0] == 1_000_000


def test_outcomes_count_what_became_of_events() -> None:
    response = pb.PredictResponse(results=[pb.EventResult(status=pb.EVENT_STATUS_ACCEPTED)])
    assert _outcomes([response.SerializeToString(), None, response.SerializeToString()]) == {"ACCEPTED": 2}


def test_pictures_differ_and_are_the_same_in_every_run() -> None:
    first = pictures(200)
    assert len(set(first)) == 200
    assert pictures(3, first=197) == first[197:]


def test_titles_are_those_of_the_shipped_films() -> None:
    assert next(iter(movie_titles(3).items())) == ("1", "Toy Story (1995)")
    assert len(movie_titles(3)) == 3
