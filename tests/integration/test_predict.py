"""Predict, over both transports: what a caller gets for a few events."""

import numpy as np
import pytest
from support.event_makers import event, new_name, predict, story
from support.serving import Serving
from support.tiny_model import ACTIONS, ITEM_DIM, ITEMS

from nextact.v1 import behavior_pb2 as pb


def test_events_are_accepted_and_each_user_gets_one_prediction_in_order_of_first_appearance(server: Serving) -> None:
    ada, bob = new_name(), new_name()
    events = [event(bob, 0), event(ada, 1, item_id=ITEMS[3]), event(bob, 2, action="like", item_id=ITEMS[4])]
    answer = server.stub.Predict(predict(events))
    assert [result.status for result in answer.results] == [pb.EVENT_STATUS_ACCEPTED] * 3
    assert [result.index for result in answer.results] == [0, 1, 2]
    assert all(result.applied and not result.id_derived for result in answer.results)
    assert [result.message_id for result in answer.results] == [one.message_id for one in events]
    assert [prediction.user_id for prediction in answer.predictions] == [bob, ada]
    assert [prediction.events_seen for prediction in answer.predictions] == [2, 1]
    assert [prediction.event_index for prediction in answer.predictions] == [2, 1]
    assert (answer.model.name, answer.model.version) == ("next_action", "1")
    assert answer.durability == pb.DURABILITY_MEMORY


def test_a_prediction_holds_embedding_action_scores_that_sum_to_one_and_ranked_items(server: Serving) -> None:
    (prediction,) = server.stub.Predict(predict([event(new_name())], top_k=7)).predictions
    assert len(prediction.embedding) == ITEM_DIM
    assert {score.action for score in prediction.actions} == set(ACTIONS)
    scores = [score.score for score in prediction.actions]
    assert sum(scores) == pytest.approx(1.0, abs=1e-6)
    assert scores == sorted(scores, reverse=True)
    assert len(prediction.items) == 7
    order = [(-item.score, item.item_id) for item in prediction.items]
    assert order == sorted(order)


def test_top_k_zero_is_ten_items(server: Serving) -> None:
    (prediction,) = server.stub.Predict(predict([event(new_name())])).predictions
    assert len(prediction.items) == 10


@pytest.mark.parametrize("name", ["EMBEDDING", "ACTIONS", "ITEMS"])
def test_only_the_outputs_asked_for_are_there(server: Serving, name: str) -> None:
    (prediction,) = server.stub.Predict(predict([event(new_name())], outputs=[f"OUTPUT_{name}"])).predictions
    there = {
        "EMBEDDING": bool(prediction.embedding),
        "ACTIONS": bool(prediction.actions),
        "ITEMS": bool(prediction.items),
    }
    assert there == {output: output == name for output in there}


def test_outputs_of_one_call_do_not_reach_another_of_the_same_burst(server: Serving) -> None:
    wishes = [{"outputs": [f"OUTPUT_{name}"], "top_k": k} for name, k in [("ITEMS", 3), ("ACTIONS", 0), ("ITEMS", 5)]]
    calls = [server.stub.Predict.future(predict([event(new_name())], **wish)) for wish in wishes * 10]
    shapes = {
        (at % 3, len(call.result().predictions[0].items), len(call.result().predictions[0].actions))
        for at, call in enumerate(calls)
    }
    assert shapes == {(0, 3, 0), (1, 0, len(ACTIONS)), (2, 5, 0)}


def test_a_dry_run_answers_as_if_and_changes_nothing(server: Serving) -> None:
    user, twin = new_name(), new_name()
    server.stub.Predict(predict(story(user, 5)))
    server.stub.Predict(predict(story(twin, 5)))
    supposed = server.stub.Predict(predict(story(user, 3, start=5), dry_run=True))
    assert [result.status for result in supposed.results] == [pb.EVENT_STATUS_ACCEPTED] * 3
    real = server.stub.Predict(predict(story(twin, 3, start=5)))
    np.testing.assert_allclose(supposed.predictions[0].embedding, real.predictions[0].embedding, atol=1e-5)
    assert supposed.predictions[0].events_seen == 8
    held = server.stub.GetUser(pb.GetUserRequest(user_id=user))
    assert (held.events_seen, len(held.history)) == (5, 5)
    again = server.stub.Predict(predict(story(user, 3, start=5)))
    assert [result.status for result in again.results] == [pb.EVENT_STATUS_ACCEPTED] * 3


def test_a_dry_run_of_a_user_never_seen_leaves_the_user_unknown(server: Serving) -> None:
    user = new_name()
    server.stub.Predict(predict(story(user, 3), dry_run=True))
    assert server.client().rank(user, top_k=1).events_seen == 0
    assert server.stub.DeleteUser(pb.DeleteUserRequest(user_id=user)).existed is False


def test_a_stateless_call_is_like_the_stored_past_and_records_nothing(server: Serving) -> None:
    user, stranger = new_name(), new_name()
    server.stub.Predict(predict(story(user, 6)))
    stored = server.stub.Predict(predict(story(user, 2, start=6)))
    stateless = server.stub.Predict(pb.PredictRequest(history=story(stranger, 6), events=story(stranger, 2, start=6)))
    assert len(stateless.results) == 2
    assert [result.index for result in stateless.results] == [0, 1]
    assert stateless.predictions[0].event_index == 1
    assert stateless.predictions[0].events_seen == 8
    np.testing.assert_allclose(stateless.predictions[0].embedding, stored.predictions[0].embedding, atol=1e-5)
    assert server.stub.DeleteUser(pb.DeleteUserRequest(user_id=stranger)).existed is False


def test_a_stateless_call_does_not_see_the_stored_state_of_its_user(server: Serving) -> None:
    user, stranger = new_name(), new_name()
    server.stub.Predict(predict(story(user, 20)))
    requests = [pb.PredictRequest(history=story(name, 4)) for name in (user, stranger)]
    first, second = (server.stub.Predict(request).predictions[0] for request in requests)
    assert first.events_seen == second.events_seen == 4
    np.testing.assert_allclose(first.embedding, second.embedding, atol=1e-6)


def test_a_user_never_seen_is_predicted_from_the_initial_state(server: Serving) -> None:
    answer = server.stub.Predict(predict([event(new_name(), action="")]))
    assert answer.results[0].status == pb.EVENT_STATUS_INVALID
    assert answer.predictions[0].events_seen == 0
    assert len(answer.predictions[0].embedding) == ITEM_DIM


def test_an_empty_predict_answers_nothing(server: Serving) -> None:
    answer = server.stub.Predict(pb.PredictRequest())
    assert (len(answer.results), len(answer.predictions)) == (0, 0)


def test_an_anonymous_visitor_is_never_the_user_of_the_same_name(server: Serving) -> None:
    name = new_name()
    server.stub.Predict(predict([event(name, 0), event(name, 1)]))
    answer = server.stub.Predict(predict([event("", 2, anonymous_id=name)]))
    assert (answer.predictions[0].user_id, answer.predictions[0].anonymous_id) == ("", name)
    assert answer.predictions[0].events_seen == 1


def test_with_both_ids_the_event_is_the_users_and_the_anonymous_id_is_recorded(server: Serving) -> None:
    user, visitor = new_name(), new_name("visitor")
    answer = server.stub.Predict(predict([event(user, anonymous_id=visitor)]))
    assert answer.predictions[0].user_id == user
    held = server.stub.GetUser(pb.GetUserRequest(user_id=user))
    assert held.history[0].event.anonymous_id == visitor
    assert server.stub.DeleteUser(pb.DeleteUserRequest(anonymous_id=visitor)).existed is False


def test_unknown_actions_and_items_are_accepted_and_recorded(server: Serving) -> None:
    user = new_name()
    answer = server.stub.Predict(predict([event(user, action="teleport", item_id="never heard of")]))
    assert answer.results[0].status == pb.EVENT_STATUS_ACCEPTED
    entry = server.stub.GetUser(pb.GetUserRequest(user_id=user)).history[0]
    assert (entry.event.action, entry.event.item_id) == ("teleport", "never heard of")


def test_a_pinned_version_that_serves_is_answered_and_another_is_not_found(server: Serving) -> None:
    from support.refusals import refused

    assert server.stub.Predict(predict([event(new_name())], model_version="1")).model.version == "1"
    user = new_name()
    refusal = refused(lambda: server.stub.Predict(predict([event(user)], model_version="9")))
    assert refusal.code.name == "NOT_FOUND"
    assert "'9'" in refusal.message
    assert server.stub.DeleteUser(pb.DeleteUserRequest(user_id=user)).existed is False
