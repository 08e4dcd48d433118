"""StreamEvents: messages in order, acknowledged once durable, predictions as asked, in rows and in Arrow."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.event_makers import arrow_message, event, new_name, predict, rows_message, story
from support.open_stream import OpenStream
from support.refusals import refusal_of
from support.serving import Serving
from support.tiny_model import ACTIONS, ITEM_DIM, ITEMS

from nextact.v1 import behavior_pb2 as pb

Message = Callable[..., Any]
both_forms = pytest.mark.parametrize("message", [rows_message, arrow_message], ids=["rows", "arrow"])


def matrix(tensor: pb.Tensor) -> np.ndarray[Any, Any]:
    assert tensor.dtype == "FP32"
    return np.frombuffer(tensor.data, "<f4").reshape(tuple(tensor.shape))


@both_forms
def test_each_message_is_acknowledged_in_order_with_its_counts(server: Serving, message: Message) -> None:
    user, other = new_name(), new_name()
    parts = [story(user, 4), story(user, 4, start=4), story(other, 3), story(user, 2)]
    stream = OpenStream(server.channel).send(*(message(5 + at, part) for at, part in enumerate(parts)))
    answers = stream.rest()
    assert [answer.number for answer in answers] == [5, 6, 7, 8]
    assert [(answer.accepted, answer.duplicates) for answer in answers] == [(4, 0), (4, 0), (3, 0), (0, 2)]
    assert not any(answer.failures or answer.predictions or answer.HasField("columns") for answer in answers)
    assert {(answer.model.name, answer.model.version) for answer in answers} == {("next_action", "1")}
    held = server.stub.GetUser(pb.GetUserRequest(user_id=user))
    assert held.events_seen == 8
    assert [entry.event.message_id for entry in held.history] == [f"{user}/{number}" for number in reversed(range(8))]


def test_rows_answer_the_last_prediction_of_each_user(server: Serving) -> None:
    ada, bob = new_name(), new_name()
    events = [*story(ada, 2), *story(bob, 1), *story(ada, 1, start=2)]
    (answer,) = OpenStream(server.channel).send(rows_message(1, events, "LAST_PER_USER", top_k=3)).rest()
    assert [prediction.user_id for prediction in answer.predictions] == [ada, bob]
    assert [prediction.event_index for prediction in answer.predictions] == [3, 2]
    assert [prediction.events_seen for prediction in answer.predictions] == [3, 1]
    assert [len(prediction.items) for prediction in answer.predictions] == [3, 3]


def test_rows_answer_every_event_as_single_calls_do(server: Serving) -> None:
    user, twin = new_name(), new_name()
    (answer,) = OpenStream(server.channel).send(rows_message(1, story(user, 5), "EVERY_EVENT")).rest()
    assert [prediction.event_index for prediction in answer.predictions] == list(range(5))
    assert [prediction.events_seen for prediction in answer.predictions] == [1, 2, 3, 4, 5]
    for prediction, one in zip(answer.predictions, story(twin, 5), strict=True):
        single = server.stub.Predict(predict([one])).predictions[0]
        np.testing.assert_allclose(prediction.embedding, single.embedding, atol=1e-5)
        assert [item.item_id for item in prediction.items] == [item.item_id for item in single.items]


@pytest.mark.parametrize("mode", ["LAST_PER_USER", "EVERY_EVENT"])
def test_arrow_answers_columns_that_say_what_rows_say(server: Serving, mode: str) -> None:
    ada, bob, eve, dan = (new_name() for _ in range(4))
    first = [*story(ada, 3), *story(bob, 2), *story(ada, 2, start=3)]
    second = [*story(eve, 3), *story(dan, 2), *story(eve, 2, start=3)]
    rows = OpenStream(server.channel).send(rows_message(1, first, mode, top_k=4)).rest()[0].predictions
    columns = OpenStream(server.channel).send(arrow_message(1, second, mode, top_k=4)).rest()[0].columns
    count = len(rows)
    assert list(columns.event_index) == [prediction.event_index for prediction in rows]
    names = {ada: eve, bob: dan}
    assert list(columns.user_ids) == [names[prediction.user_id] for prediction in rows]
    assert list(columns.anonymous_ids) == [""] * count
    assert matrix(columns.embedding).shape == (count, ITEM_DIM)
    np.testing.assert_allclose(matrix(columns.embedding), [list(p.embedding) for p in rows], atol=1e-5)
    assert list(columns.action_names) == list(ACTIONS)
    by_name = [{score.action: score.score for score in p.actions} for p in rows]
    np.testing.assert_allclose(
        matrix(columns.actions), [[one[action] for action in ACTIONS] for one in by_name], atol=1e-5
    )
    assert list(columns.item_ids) == [item.item_id for p in rows for item in p.items]
    np.testing.assert_allclose(matrix(columns.item_scores), [[i.score for i in p.items] for p in rows], atol=1e-5)


def test_too_few_items_are_padded_in_columns_and_shorter_in_rows(server: Serving) -> None:
    wish = {"top_k": 5, "filter": pb.ItemFilter(include_item_ids=ITEMS[:2])}
    rows = OpenStream(server.channel).send(rows_message(1, [event(new_name())], "EVERY_EVENT", **wish)).rest()[0]
    assert {item.item_id for item in rows.predictions[0].items} == set(ITEMS[:2])
    columns = OpenStream(server.channel).send(arrow_message(1, [event(new_name())], "EVERY_EVENT", **wish)).rest()[0]
    assert [bool(item) for item in columns.columns.item_ids] == [True, True, False, False, False]
    scores = matrix(columns.columns.item_scores)[0]
    assert np.isfinite(scores[:2]).all()
    assert (scores[2:] == -np.inf).all()


def test_visitors_are_named_in_columns(server: Serving) -> None:
    user, visitor = new_name(), new_name("visitor")
    events = [event(user), event(anonymous_id=visitor), event(user, anonymous_id=visitor)]
    (answer,) = OpenStream(server.channel).send(arrow_message(1, events, "EVERY_EVENT")).rest()
    assert list(answer.columns.user_ids) == [user, "", user]
    assert [bool(name) for name in answer.columns.anonymous_ids][1] is True
    assert answer.columns.anonymous_ids[1] == visitor


@both_forms
def test_outputs_choose_parts_on_streams_too(server: Serving, message: Message) -> None:
    stream = OpenStream(server.channel)
    stream.send(message(1, [event(new_name())], "LAST_PER_USER", outputs=["OUTPUT_ACTIONS"]))
    (answer,) = stream.rest()
    if answer.predictions:
        (prediction,) = answer.predictions
        assert (len(prediction.embedding), len(prediction.items), len(prediction.actions)) == (0, 0, len(ACTIONS))
    else:
        columns = answer.columns
        assert (columns.HasField("embedding"), columns.HasField("item_scores"), len(columns.item_ids)) == (
            False,
            False,
            0,
        )
        assert matrix(columns.actions).shape == (1, len(ACTIONS))


@both_forms
def test_a_dry_run_message_changes_nothing(server: Serving, message: Message) -> None:
    user = new_name()
    stream = OpenStream(server.channel).send(message(1, story(user, 3), "LAST_PER_USER", dry_run=True))
    stream.send(message(2, story(user, 3)))
    answers = stream.rest()
    assert [answer.accepted for answer in answers] == [3, 3]


@both_forms
def test_failures_name_the_events_of_the_message_and_late_ones_are_listed(server: Serving, message: Message) -> None:
    user = new_name()
    events = [event(user, 600), event(user, 0), event(user, 601, action=""), event(user, 602)]
    (answer,) = OpenStream(server.channel).send(message(3, events)).rest()
    assert (answer.number, answer.accepted, answer.duplicates) == (3, 3, 0)
    assert [(failure.index, failure.status) for failure in answer.failures] == [
        (1, pb.EVENT_STATUS_LATE),
        (2, pb.EVENT_STATUS_INVALID),
    ]
    assert answer.failures[1].field == "action"
    assert answer.failures[1].message_id == events[2].message_id


@both_forms
def test_every_event_predicts_after_accepted_events_only(server: Serving, message: Message) -> None:
    user = new_name()
    events = [event(user, 0), event(user, 1, action=""), event(user, 2)]
    events.append(events[0])
    (answer,) = OpenStream(server.channel).send(message(1, events, "EVERY_EVENT")).rest()
    index = [p.event_index for p in answer.predictions] or list(answer.columns.event_index)
    assert index == [0, 2]
    assert (answer.accepted, answer.duplicates, len(answer.failures)) == (2, 1, 1)


@both_forms
def test_an_empty_message_is_acknowledged(server: Serving, message: Message) -> None:
    answers = OpenStream(server.channel).send(message(1, []), message(2, [event(new_name())])).rest()
    assert [(answer.number, answer.accepted) for answer in answers] == [(1, 0), (2, 1)]


def test_a_message_without_a_batch_is_acknowledged(server: Serving) -> None:
    (answer,) = OpenStream(server.channel).send(pb.StreamEventsRequest(number=4)).rest()
    assert (answer.number, answer.accepted) == (4, 0)


def test_the_window_is_announced_before_anything_is_sent(server: Serving) -> None:
    stream = OpenStream(server.channel)
    window = dict(stream.call.initial_metadata())["nextact-window"]
    assert window == "messages=16,bytes=67108864"
    assert stream.rest() == []


def test_rows_and_arrow_mix_in_one_stream(server: Serving) -> None:
    user, twin = new_name(), new_name()
    stream = OpenStream(server.channel)
    stream.send(rows_message(1, story(user, 3)), arrow_message(2, story(user, 3, start=3), "LAST_PER_USER"))
    embedding = matrix(stream.rest()[1].columns.embedding)[0]
    single = server.stub.Predict(predict(story(twin, 6))).predictions[0]
    np.testing.assert_allclose(embedding, single.embedding, atol=1e-5)


@pytest.mark.parametrize("numbers", [(0,), (-3,), (1, 3), (4, 4), (7, 6), (9, 0)])
def test_a_wrong_number_ends_the_stream_and_nothing_of_that_message_is_applied(
    server: Serving, numbers: tuple[int, ...]
) -> None:
    user = new_name()
    stream = OpenStream(server.channel)
    for at, number in enumerate(numbers):
        stream.send(rows_message(number, story(user, 1, start=at)))
    acknowledged, error = stream.failure()
    refusal = refusal_of(error)
    assert (refusal.code.name, refusal.fields) == ("INVALID_ARGUMENT", ("number",))
    assert str(numbers[-1]) in refusal.message
    assert [answer.number for answer in acknowledged] == list(numbers[:-1])
    assert server.stub.Rank(pb.RankRequest(user_id=user, top_k=1)).events_seen == len(numbers) - 1


@both_forms
def test_ten_thousand_events_are_taken_in_one_message_and_one_more_is_refused(
    server: Serving, message: Message
) -> None:
    users = [new_name() for _ in range(500)]
    events = [event(users[number % 500], number / 100) for number in range(10_001)]
    (answer,) = OpenStream(server.channel).send(message(1, events[:10_000])).rest()
    assert answer.accepted == 10_000
    acknowledged, error = OpenStream(server.channel).send(message(1, events)).failure()
    refusal = refusal_of(error)
    assert refusal.code.name == "INVALID_ARGUMENT"
    assert "10001" in refusal.message
    assert "max_stream_events" in refusal.message
    assert acknowledged == []
    assert server.stub.Rank(pb.RankRequest(user_id=users[0], top_k=1)).events_seen == 20


def test_an_unknown_version_ends_the_stream_as_not_found(server: Serving) -> None:
    stream = OpenStream(server.channel).send(rows_message(1, [event(new_name())], model_version="8"))
    assert refusal_of(stream.failure()[1]).code.name == "NOT_FOUND"


def test_a_client_that_goes_away_takes_its_stream_along_and_nobody_elses(server: Serving) -> None:
    user, other = new_name(), new_name()
    leaving, staying = OpenStream(server.channel), OpenStream(server.channel)
    leaving.send(rows_message(1, story(user, 2)))
    staying.send(rows_message(1, story(other, 2)))
    assert (leaving.receive().accepted, staying.receive().accepted) == (2, 2)
    leaving.send(rows_message(2, story(user, 2, start=2)))
    leaving.cancel()
    staying.send(arrow_message(2, story(other, 2, start=2)))
    assert staying.receive().accepted == 2
    assert staying.rest() == []
