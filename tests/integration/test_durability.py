"""Durability: no answer before its events are kept; a failed commit is told, and sending again counts each once."""

from concurrent.futures import Future
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.event_makers import arrow_message, event, new_name, predict, rows_message, story
from support.open_stream import OpenStream
from support.refusals import refusal_of, refused
from support.serving import PATIENCE, Serving, StartServer

from nextact.v1 import behavior_pb2 as pb
from nextact_server.storage.faulty import FaultyStore

ACCEPTED, DUPLICATE = pb.EVENT_STATUS_ACCEPTED, pb.EVENT_STATUS_DUPLICATE
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def server(start_server: StartServer, faulty: FaultyStore) -> Serving:
    return start_server(faulty)


def statuses(answer: pb.PredictResponse) -> list[int]:
    return [result.status for result in answer.results]


def error_of(call: Any) -> grpc.RpcError:
    error = call.exception(PATIENCE)
    assert error is not None
    return error  # type: ignore[no-any-return]


def all_arrived(server: Serving, faulty: FaultyStore) -> Any:
    """Returns once everything sent before on this connection has reached the store; keep what is returned."""
    before = faulty.held
    last = server.stub.Predict.future(predict([event(new_name())]))
    assert faulty.await_held(before + 1, PATIENCE)
    return last


def answers_like_one_undisturbed(server: Serving, user: str, count: int) -> None:
    """Holds a user's state against that of another who told the same story without disturbance."""
    twin = new_name()
    server.stub.Predict(predict(story(twin, count)))
    probe = [server.stub.Predict(predict(story(name, 1, start=count))).predictions[0] for name in (user, twin)]
    assert probe[0].events_seen == probe[1].events_seen == count + 1
    np.testing.assert_allclose(probe[0].embedding, probe[1].embedding, atol=1e-5)
    histories = [server.stub.GetUser(pb.GetUserRequest(user_id=name)).history for name in (user, twin)]
    told = [[entry.event.message_id.split("/")[1] for entry in history] for history in histories]
    assert told[0] == told[1]


def test_no_answer_leaves_before_its_events_are_durable(server: Serving, faulty: FaultyStore) -> None:
    user = new_name()
    faulty.hold()
    call = server.stub.Predict.future(predict(story(user, 2)))
    assert faulty.await_held(1, PATIENCE)
    rank = server.stub.Rank.future(pb.RankRequest(user_id=user, top_k=1))
    stream = OpenStream(server.channel).send(rows_message(1, story(new_name(), 2)))
    assert faulty.await_held(2, PATIENCE)
    assert not call.done()
    assert not rank.done()
    faulty.release()
    assert statuses(call.result()) == [ACCEPTED] * 2
    assert rank.result().events_seen == 2
    assert stream.rest()[0].accepted == 2


def test_a_dry_run_on_top_of_what_is_not_durable_waits_for_it(server: Serving, faulty: FaultyStore) -> None:
    user = new_name()
    faulty.hold()
    first = server.stub.Predict.future(predict(story(user, 2)))
    assert faulty.await_held(1, PATIENCE)
    supposed = server.stub.Predict.future(predict(story(user, 1, start=2), dry_run=True))
    last = all_arrived(server, faulty)
    assert not last.done()
    assert not supposed.done()
    faulty.release()
    assert first.result().predictions[0].events_seen == 2
    assert supposed.result().predictions[0].events_seen == 3


def test_messages_behind_a_held_one_go_on_and_are_acknowledged_with_it(server: Serving, faulty: FaultyStore) -> None:
    user = new_name()
    faulty.hold()
    stream = OpenStream(server.channel)
    stream.send(*(rows_message(1 + at, story(user, 1, start=at)) for at in range(5)))
    last = all_arrived(server, faulty)
    assert not last.done()
    faulty.release()
    assert [answer.number for answer in stream.rest()] == [1, 2, 3, 4, 5]
    answers_like_one_undisturbed(server, user, 5)


def test_a_copy_of_an_event_in_flight_waits_for_its_commit(server: Serving, faulty: FaultyStore) -> None:
    user = new_name()
    faulty.hold()
    first = server.stub.Predict.future(predict(story(user, 1)))
    assert faulty.await_held(1, PATIENCE)
    copy = server.stub.Predict.future(predict(story(user, 1)))
    last = all_arrived(server, faulty)
    assert not last.done()
    assert not copy.done()
    faulty.release()
    assert statuses(first.result()) == [ACCEPTED]
    assert statuses(copy.result()) == [DUPLICATE]
    assert copy.result().results[0].original_status == ACCEPTED


def test_a_copy_of_an_event_whose_commit_fails_is_no_duplicate(server: Serving, faulty: FaultyStore) -> None:
    user = new_name()
    faulty.hold()
    faulty.fail_commit()
    first = server.stub.Predict.future(predict(story(user, 1)))
    assert faulty.await_held(1, PATIENCE)
    copy = server.stub.Predict.future(predict(story(user, 1)))
    last = all_arrived(server, faulty)
    assert not last.done()
    faulty.release()
    assert refusal_of(error_of(first)).code.name == "UNAVAILABLE"
    assert refusal_of(error_of(copy)).code.name == "UNAVAILABLE"
    again = server.stub.Predict(predict(story(user, 1)))
    assert statuses(again) == [ACCEPTED]
    answers_like_one_undisturbed(server, user, 1)


def test_a_failed_commit_is_unavailable_and_the_same_call_again_counts_once(
    server: Serving, faulty: FaultyStore
) -> None:
    user = new_name()
    server.stub.Predict(predict(story(user, 3)))
    faulty.fail_commit()
    refusal = refused(lambda: server.stub.Predict(predict(story(user, 2, start=3))))
    assert refusal.code.name == "UNAVAILABLE"
    assert "again" in refusal.message
    assert server.stub.Rank(pb.RankRequest(user_id=user, top_k=1)).events_seen == 3
    assert statuses(server.stub.Predict(predict(story(user, 2, start=3)))) == [ACCEPTED] * 2
    answers_like_one_undisturbed(server, user, 5)


def test_a_failed_commit_takes_all_behind_it_along_and_nobody_before_it(server: Serving, faulty: FaultyStore) -> None:
    users = [new_name() for _ in range(6)]
    faulty.hold()
    faulty.fail_commit(3)
    calls: list[Future[Any]] = []
    for at, user in enumerate(users):
        calls.append(server.stub.Predict.future(predict(story(user, 3))))
        assert faulty.await_held(at + 1, PATIENCE)
    faulty.release()
    for call in calls[:2]:
        assert statuses(call.result()) == [ACCEPTED] * 3
    for call in calls[2:]:
        assert refusal_of(error_of(call)).code.name == "UNAVAILABLE"
    for at, user in enumerate(users):
        expected = DUPLICATE if at < 2 else ACCEPTED
        assert statuses(server.stub.Predict(predict(story(user, 3)))) == [expected] * 3
        answers_like_one_undisturbed(server, user, 3)


def test_a_failed_commit_in_the_middle_of_a_users_events_leaves_no_trace_in_the_state(
    server: Serving, faulty: FaultyStore
) -> None:
    user = new_name()
    server.stub.Predict(predict(story(user, 2)))
    faulty.hold()
    faulty.fail_commit(2)
    calls = []
    for at in range(3):
        calls.append(server.stub.Predict.future(predict(story(user, 2, start=2 + 2 * at))))
        assert faulty.await_held(at + 1, PATIENCE)
    faulty.release()
    assert statuses(calls[0].result()) == [ACCEPTED] * 2
    for call in calls[1:]:
        error_of(call)
    assert statuses(server.stub.Predict(predict(story(user, 6, start=2)))) == [DUPLICATE] * 2 + [ACCEPTED] * 4
    answers_like_one_undisturbed(server, user, 8)


@pytest.mark.parametrize("message", [rows_message, arrow_message], ids=["rows", "arrow"])
def test_a_failed_commit_ends_the_stream_and_sending_again_gives_each_event_once(
    server: Serving, faulty: FaultyStore, message: Any
) -> None:
    user = new_name()
    messages = [message(1 + at, story(user, 3, start=3 * at)) for at in range(4)]
    stream = OpenStream(server.channel)
    faulty.fail_commit(3)
    for one in messages[:2]:
        assert stream.send(one).receive().accepted == 3
    acknowledged, error = stream.send(*messages[2:]).failure()
    assert refusal_of(error).code.name == "UNAVAILABLE"
    assert acknowledged == []
    again = OpenStream(server.channel).send(*messages[2:]).rest()
    assert [(answer.number, answer.accepted + answer.duplicates) for answer in again] == [(3, 3), (4, 3)]
    answers_like_one_undisturbed(server, user, 12)


def test_the_sdk_sends_again_by_itself_and_every_event_counts_once(server: Serving, faulty: FaultyStore) -> None:
    user = new_name()
    batches = [story(user, 2, start=2 * at) for at in range(6)]
    sent = [
        [
            {
                "user_id": one.user_id,
                "action": one.action,
                "item_id": one.item_id,
                "event_time": one.event_time.ToMicroseconds(),
                "message_id": one.message_id,
            }
            for one in batch
        ]
        for batch in batches
    ]
    faulty.fail_commit()
    with server.client() as client:
        acknowledged = list(client.stream(sent))
    assert sum(ack.accepted + ack.duplicates for ack in acknowledged) == 12
    answers_like_one_undisturbed(server, user, 12)


def test_health_goes_down_with_the_store_and_comes_back_by_itself(server: Serving, faulty: FaultyStore) -> None:
    watch = health_pb2_grpc.HealthStub(server.channel).Watch(
        health_pb2.HealthCheckRequest(service="nextact.v1.BehaviorService"), timeout=PATIENCE
    )
    assert next(watch).status == SERVING
    faulty.fail_commit()
    faulty.fail_reopen()
    user = new_name()
    assert refused(lambda: server.stub.Predict(predict(story(user, 1)))).code.name == "UNAVAILABLE"
    assert next(watch).status == NOT_SERVING
    assert next(watch).status == SERVING
    watch.cancel()
    assert statuses(server.stub.Predict(predict(story(user, 1)))) == [ACCEPTED]


def test_while_the_store_cannot_be_reopened_writes_are_unavailable(server: Serving, faulty: FaultyStore) -> None:
    for _ in range(200):
        faulty.fail_reopen()
    faulty.fail_commit()
    user = new_name()
    for _ in range(3):
        assert refused(lambda: server.stub.Predict(predict(story(user, 1)))).code.name == "UNAVAILABLE"
    item = pb.UpsertItemsRequest(items=[pb.Item(item_id=new_name("item"), text="x")])
    assert refused(lambda: server.stub.UpsertItems(item)).code.name == "UNAVAILABLE"


def test_an_upsert_that_fails_is_not_there_and_can_be_sent_again(server: Serving, faulty: FaultyStore) -> None:
    name = new_name("thing")
    request = pb.UpsertItemsRequest(items=[pb.Item(item_id=name, text="words")])
    faulty.fail_commit()
    assert refused(lambda: server.stub.UpsertItems(request)).code.name == "UNAVAILABLE"
    ranked = server.stub.Rank(pb.RankRequest(user_id="reader", candidates=[name])).items
    assert list(ranked) == []
    assert refused(lambda: server.stub.GetItem(pb.GetItemRequest(item_id=name))).code.name == "NOT_FOUND"
    assert server.stub.UpsertItems(request).results[0].status == pb.ITEM_STATUS_CREATED
    assert server.stub.Rank(pb.RankRequest(user_id="reader", candidates=[name])).items[0].item_id == name


def test_a_deleted_item_comes_back_if_its_deletion_fails(server: Serving, faulty: FaultyStore) -> None:
    name = new_name("thing")
    server.stub.UpsertItems(pb.UpsertItemsRequest(items=[pb.Item(item_id=name, text="words")]))
    faulty.fail_commit()
    assert refused(lambda: server.stub.DeleteItem(pb.DeleteItemRequest(item_id=name))).code.name == "UNAVAILABLE"
    assert len(server.stub.Rank(pb.RankRequest(user_id="reader", candidates=[name])).items) == 1


def test_an_item_deleted_while_its_upsert_is_in_flight_is_gone(server: Serving, faulty: FaultyStore) -> None:
    name = new_name("thing")
    faulty.hold()
    upsert = server.stub.UpsertItems.future(pb.UpsertItemsRequest(items=[pb.Item(item_id=name, text="words")]))
    assert faulty.await_held(1, PATIENCE)
    delete = server.stub.DeleteItem.future(pb.DeleteItemRequest(item_id=name))
    last = all_arrived(server, faulty)
    assert not last.done()
    faulty.release()
    assert upsert.result().results[0].status == pb.ITEM_STATUS_CREATED
    assert delete.result().existed is True
    assert refused(lambda: server.stub.GetItem(pb.GetItemRequest(item_id=name))).code.name == "NOT_FOUND"


def test_an_erasure_is_answered_once_it_is_durable(server: Serving, faulty: FaultyStore) -> None:
    user = new_name()
    server.stub.Predict(predict(story(user, 3)))
    faulty.hold()
    erased = server.stub.DeleteUser.future(pb.DeleteUserRequest(user_id=user))
    assert faulty.await_held(1, PATIENCE)
    assert not erased.done()
    faulty.release()
    assert erased.result().existed is True
    assert refused(lambda: server.stub.GetUser(pb.GetUserRequest(user_id=user))).code.name == "NOT_FOUND"


def test_events_behind_an_erasure_in_flight_start_afresh(server: Serving, faulty: FaultyStore) -> None:
    user = new_name()
    server.stub.Predict(predict(story(user, 6)))
    faulty.hold()
    pending = server.stub.Predict.future(predict(story(user, 1, start=6)))
    assert faulty.await_held(1, PATIENCE)
    erased = server.stub.DeleteUser.future(pb.DeleteUserRequest(user_id=user))
    assert faulty.await_held(2, PATIENCE)
    # Ids of before the erasure, one of them itself in flight, are free again; what comes behind it is kept.
    after = server.stub.Predict.future(predict([*story(user, 3), *story(user, 1, start=6)]))
    assert faulty.await_held(3, PATIENCE)
    faulty.release()
    assert statuses(pending.result()) == [ACCEPTED]
    assert erased.result().existed is True
    assert statuses(after.result()) == [ACCEPTED] * 4
    assert after.result().predictions[0].events_seen == 4
    assert server.stub.GetUser(pb.GetUserRequest(user_id=user)).events_seen == 4


def test_events_behind_a_suppression_in_flight_are_suppressed(server: Serving, faulty: FaultyStore) -> None:
    user = new_name()
    server.stub.Predict(predict(story(user, 2)))
    faulty.hold()
    erased = server.stub.DeleteUser.future(pb.DeleteUserRequest(user_id=user, suppress=True))
    assert faulty.await_held(1, PATIENCE)
    after = server.stub.Predict.future(predict(story(user, 3)))
    last = all_arrived(server, faulty)
    assert not last.done()
    faulty.release()
    assert erased.result().existed is True
    assert statuses(after.result()) == [pb.EVENT_STATUS_SUPPRESSED] * 3


def test_an_erasure_that_fails_leaves_the_user_whole(server: Serving, faulty: FaultyStore) -> None:
    user = new_name()
    server.stub.Predict(predict(story(user, 4)))
    faulty.fail_commit()
    delete = pb.DeleteUserRequest(user_id=user, suppress=True)
    assert refused(lambda: server.stub.DeleteUser(delete)).code.name == "UNAVAILABLE"
    assert statuses(server.stub.Predict(predict(story(user, 2)))) == [DUPLICATE] * 2
    answers_like_one_undisturbed(server, user, 4)


def test_a_full_arena_keeps_what_is_not_durable_and_every_state_is_right(
    start_server: StartServer, faulty: FaultyStore
) -> None:
    server = start_server(faulty, resident_users=6, max_predict_events=6, max_stream_events=6)
    users = [new_name() for _ in range(12)]
    for at in range(3):
        for user in users:
            server.stub.Predict(predict(story(user, 2, start=2 * at), outputs=["OUTPUT_ACTIONS"]))
    for user in (users[0], users[7], users[11]):
        answers_like_one_undisturbed(server, user, 6)
