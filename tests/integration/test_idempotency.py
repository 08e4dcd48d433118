"""Idempotency: whatever is sent again counts once, and is told what became of it the first time."""

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct
from support.event_makers import arrow_message, event, new_name, predict, rows_message, story
from support.open_stream import OpenStream
from support.serving import Serving

from nextact.v1 import behavior_pb2 as pb

ACCEPTED, DUPLICATE, LATE = pb.EVENT_STATUS_ACCEPTED, pb.EVENT_STATUS_DUPLICATE, pb.EVENT_STATUS_LATE
both_forms = pytest.mark.parametrize("message", [rows_message, arrow_message], ids=["rows", "arrow"])


def seen(server: Serving, user: str) -> int:
    return int(server.stub.Rank(pb.RankRequest(user_id=user, top_k=1)).events_seen)


def statuses(answer: pb.PredictResponse) -> list[int]:
    return [result.status for result in answer.results]


def test_a_copy_in_the_same_message_is_a_duplicate_of_the_first(server: Serving) -> None:
    user = new_name()
    first = event(user, 0)
    answer = server.stub.Predict(predict([first, event(user, 1), first, first]))
    assert statuses(answer) == [ACCEPTED, ACCEPTED, DUPLICATE, DUPLICATE]
    assert {(result.original_status, result.applied) for result in answer.results[2:]} == {(ACCEPTED, True)}
    assert answer.predictions[0].events_seen == 2


def test_a_call_sent_again_answers_like_the_first(server: Serving) -> None:
    user = new_name()
    request = predict(story(user, 4), top_k=5)
    first, again = server.stub.Predict(request), server.stub.Predict(request)
    assert statuses(again) == [DUPLICATE] * 4
    assert all(result.original_status == ACCEPTED and result.applied for result in again.results)
    (before,), (after,) = first.predictions, again.predictions
    assert list(after.embedding) == pytest.approx(list(before.embedding), abs=1e-6)
    assert (after.events_seen, after.event_index) == (before.events_seen, before.event_index)
    assert [item.item_id for item in after.items] == [item.item_id for item in before.items]


def test_a_call_sent_again_and_longer_applies_what_is_new(server: Serving) -> None:
    user = new_name()
    server.stub.Predict(predict(story(user, 3)))
    answer = server.stub.Predict(predict(story(user, 5)))
    assert statuses(answer) == [DUPLICATE] * 3 + [ACCEPTED] * 2
    assert answer.predictions[0].events_seen == 5


def test_a_duplicate_is_told_that_the_first_was_late(server: Serving) -> None:
    user = new_name()
    late = event(user, 0)
    server.stub.Predict(predict([event(user, 600), late]))
    (result,) = server.stub.Predict(predict([late])).results
    assert (result.status, result.original_status) == (DUPLICATE, LATE)


def test_of_concurrent_copies_exactly_one_is_accepted(server: Serving) -> None:
    user = new_name()
    one = event(user)
    with server.client():
        calls = [server.stub.Predict.future(predict([one])) for _ in range(24)]
        found = [statuses(call.result())[0] for call in calls]
    assert sorted(found) == [ACCEPTED] + [DUPLICATE] * 23
    assert seen(server, user) == 1


def test_the_same_message_id_of_two_users_names_two_events(server: Serving) -> None:
    name = new_name()
    events = [event(name, message_id="m"), event(new_name(), message_id="m"), event(anonymous_id=name, message_id="m")]
    assert statuses(server.stub.Predict(predict(events))) == [ACCEPTED] * 3


def test_the_first_copy_counts_whatever_the_second_says(server: Serving) -> None:
    user = new_name()
    server.stub.Predict(predict([event(user, 0, item_id="item-01", message_id="m")]))
    answer = server.stub.Predict(predict([event(user, 5, item_id="item-02", action="buy", message_id="m")]))
    assert statuses(answer) == [DUPLICATE]
    (entry,) = server.stub.GetUser(pb.GetUserRequest(user_id=user)).history
    assert entry.event.item_id == "item-01"


def test_the_id_of_an_invalid_event_can_be_used_again(server: Serving) -> None:
    user = new_name()
    assert (
        statuses(server.stub.Predict(predict([event(user, action="", message_id="m")])))[0] == pb.EVENT_STATUS_INVALID
    )
    broken = event(user, 0, image=b"no image at all", message_id="m")
    assert statuses(server.stub.Predict(predict([broken])))[0] == pb.EVENT_STATUS_INVALID
    both = predict([event(user, action="", message_id="m"), event(user, message_id="m")])
    assert statuses(server.stub.Predict(both)) == [pb.EVENT_STATUS_INVALID, ACCEPTED]


@both_forms
def test_a_stream_sent_again_is_acknowledged_as_duplicates(server: Serving, message: Callable[..., Any]) -> None:
    user = new_name()
    (first,) = OpenStream(server.channel).send(message(1, story(user, 6))).rest()
    (again,) = OpenStream(server.channel).send(message(1, story(user, 6))).rest()
    assert [(answer.accepted, answer.duplicates) for answer in (first, again)] == [(6, 0), (0, 6)]
    assert statuses(server.stub.Predict(predict(story(user, 6)))) == [DUPLICATE] * 6


def anonymous_events(user: str) -> list[pb.Event]:
    """Events without message ids: two are equal, one differs in its text only."""
    return [
        event(user, 0, item_id="item-01", message_id=""),
        event(user, 0, item_id="item-01", message_id=""),
        event(user, 0, item_id="item-01", message_id="", text="grüße"),
        event(user, 1, anonymous_id="cookie", session_id="s", message_id=""),
    ]


def derived(server: Serving, events: list[pb.Event]) -> list[str]:
    answer = server.stub.Predict(predict(events))
    assert all(result.id_derived for result in answer.results)
    return [result.message_id for result in answer.results]


def test_equal_events_without_ids_are_told_apart_by_their_occurrence(server: Serving) -> None:
    user = new_name()
    answer = server.stub.Predict(predict(anonymous_events(user)))
    assert statuses(answer) == [ACCEPTED] * 4
    assert len({result.message_id for result in answer.results}) == 4


def test_events_without_ids_sent_again_are_duplicates_in_rows_and_in_arrow(server: Serving) -> None:
    user = new_name()
    assert derived(server, anonymous_events(user)) == derived(server, anonymous_events(user))
    assert seen(server, user) == 4
    for message in (rows_message, arrow_message):
        (answer,) = OpenStream(server.channel).send(message(1, anonymous_events(user))).rest()
        assert (answer.accepted, answer.duplicates) == (0, 4)


def test_derived_ids_do_not_depend_on_the_neighbours_of_a_burst(server: Serving) -> None:
    users = [new_name() for _ in range(30)]
    first = {user: derived(server, anonymous_events(user)) for user in users[:10]}
    extra = Struct()
    extra.update({"x": 1})
    calls = []
    for at, user in enumerate(users):
        events = anonymous_events(user) if at < 10 else [event(user, at, message_id="", properties=extra)]
        calls.append(server.stub.Predict.future(predict(events)))
    for user, call in zip(users[:10], calls, strict=False):
        assert statuses(call.result()) == [DUPLICATE] * 4
        assert [result.message_id for result in call.result().results] == first[user]


def test_properties_and_sent_at_are_part_of_a_derived_id(server: Serving) -> None:
    user = new_name()
    one, other = Struct(), Struct()
    one.update({"a": 1, "b": 2})
    other.update({"a": 1, "b": 3})
    events = [event(user, 0, message_id="", properties=p) for p in (one, other)]
    assert len(set(derived(server, events))) == 2
    swapped = Struct()
    swapped.update({"b": 2, "a": 1})
    assert statuses(server.stub.Predict(predict([event(user, 0, message_id="", properties=swapped)]))) == [DUPLICATE]
