"""GetUser and DeleteUser: what is held about a user, and its end."""

import pytest
from google.protobuf.struct_pb2 import Struct
from support.event_makers import START_US, event, new_name, predict, rows_message, stamp, story
from support.open_stream import OpenStream
from support.pictures import picture
from support.refusals import refused
from support.serving import Serving

from nextact.v1 import behavior_pb2 as pb


def get(server: Serving, user: str, **fields: object) -> pb.User:
    return server.stub.GetUser(pb.GetUserRequest(user_id=user, **fields))


def delete(server: Serving, user: str, **fields: object) -> bool:
    return bool(server.stub.DeleteUser(pb.DeleteUserRequest(user_id=user, **fields)).existed)


def test_an_event_is_held_as_it_was_sent_its_image_as_a_hash(server: Serving) -> None:
    user = new_name()
    properties = Struct()
    properties.update({"price": 9.5, "tags": ["a", "b"], "deep": {"x": None}})
    sent = event(
        user,
        anonymous_id="cookie",
        action="buy",
        item_id="item-07",
        sent_at=stamp(START_US + 5),
        text="grüße",
        image=picture(),
        session_id="s1",
        properties=properties,
    )
    server.stub.Predict(predict([sent]))
    held = get(server, user)
    assert (held.user_id, held.events_seen, held.suppressed) == (user, 1, False)
    assert held.last_event_time == sent.event_time
    (entry,) = held.history
    assert len(entry.content_hash) == 16
    assert (entry.status, entry.applied) == (pb.EVENT_STATUS_ACCEPTED, True)
    assert entry.effective_time == sent.event_time
    sent.ClearField("image")
    assert entry.event == sent


def test_pages_go_from_the_newest_event_to_the_oldest_each_once(server: Serving) -> None:
    user = new_name()
    server.stub.Predict(predict(story(user, 23)))
    seen: list[str] = []
    token = ""
    while True:
        page = get(server, user, page_size=5, page_token=token)
        assert page.events_seen == 23
        seen += [entry.event.message_id for entry in page.history]
        token = page.next_page_token
        if not token:
            break
    assert seen == [f"{user}/{number}" for number in reversed(range(23))]


def test_a_page_without_a_size_has_a_hundred_events(server: Serving) -> None:
    user = new_name()
    server.stub.Predict(predict(story(user, 130)))
    page = get(server, user)
    assert len(page.history) == 100
    assert len(get(server, user, page_token=page.next_page_token).history) == 30


@pytest.mark.parametrize("token", ["AAA", "LTE=", "MTIz%", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5"])
def test_a_token_that_is_none_is_refused_by_name(server: Serving, token: str) -> None:
    user = new_name()
    server.stub.Predict(predict(story(user, 2)))
    refusal = refused(lambda: get(server, user, page_token=token))
    assert (refusal.code.name, refusal.fields) == ("INVALID_ARGUMENT", ("page_token",))


def test_a_user_never_seen_is_not_found_and_can_be_deleted(server: Serving) -> None:
    user = new_name()
    refusal = refused(lambda: get(server, user))
    assert refusal.code.name == "NOT_FOUND"
    assert user in refusal.message
    assert delete(server, user) is False


def test_a_visitor_is_found_by_anonymous_id_only(server: Serving) -> None:
    visitor = new_name("visitor")
    server.stub.Predict(predict([event(anonymous_id=visitor)]))
    held = server.stub.GetUser(pb.GetUserRequest(anonymous_id=visitor))
    assert (held.anonymous_id, held.user_id, held.events_seen) == (visitor, "", 1)
    assert refused(lambda: get(server, visitor)).code.name == "NOT_FOUND"
    assert delete(server, visitor) is False
    assert server.stub.DeleteUser(pb.DeleteUserRequest(anonymous_id=visitor)).existed is True


@pytest.mark.parametrize("method", ["GetUser", "DeleteUser"])
@pytest.mark.parametrize("names", [{}, {"user_id": "a", "anonymous_id": "a"}])
def test_exactly_one_id_is_expected(server: Serving, method: str, names: dict[str, str]) -> None:
    request = {"GetUser": pb.GetUserRequest, "DeleteUser": pb.DeleteUserRequest}[method](**names)
    refusal = refused(lambda: getattr(server.stub, method)(request))
    assert (refusal.code.name, refusal.fields) == ("INVALID_ARGUMENT", ("user_id",))


def test_after_erasure_nothing_is_left_not_even_the_message_ids(server: Serving) -> None:
    user, twin = new_name(), new_name()
    server.stub.Predict(predict(story(user, 9)))
    assert delete(server, user) is True
    assert delete(server, user) is False
    assert refused(lambda: get(server, user)).code.name == "NOT_FOUND"
    assert server.stub.Rank(pb.RankRequest(user_id=user, top_k=1)).events_seen == 0
    again = server.stub.Predict(predict(story(user, 2)))
    fresh = server.stub.Predict(predict(story(twin, 2)))
    assert [result.status for result in again.results] == [pb.EVENT_STATUS_ACCEPTED] * 2
    assert again.predictions[0].events_seen == 2
    assert list(again.predictions[0].embedding) == pytest.approx(list(fresh.predictions[0].embedding), abs=1e-5)


def test_items_of_an_erased_history_count_as_seen_no_longer(server: Serving) -> None:
    user = new_name()
    wish = pb.ItemFilter(exclude_seen=True)
    server.stub.Predict(predict([event(user, item_id="item-03")], filter=wish))
    delete(server, user)
    ranked = server.stub.Rank(pb.RankRequest(user_id=user, top_k=1000, filter=wish)).items
    assert "item-03" in {item.item_id for item in ranked}


def test_a_suppressed_user_is_refused_from_then_on_and_neighbours_are_not(server: Serving) -> None:
    user, neighbour = new_name(), new_name()
    server.stub.Predict(predict(story(user, 3)))
    assert delete(server, user, suppress=True) is True
    answer = server.stub.Predict(predict([event(user), event(neighbour), event(user)]))
    assert [result.status for result in answer.results] == [
        pb.EVENT_STATUS_SUPPRESSED,
        pb.EVENT_STATUS_ACCEPTED,
        pb.EVENT_STATUS_SUPPRESSED,
    ]
    assert answer.results[0].reason
    assert [prediction.user_id for prediction in answer.predictions] == [neighbour]
    held = get(server, user)
    assert (held.suppressed, held.events_seen, len(held.history)) == (True, 0, 0)
    (acknowledged,) = OpenStream(server.channel).send(rows_message(1, [event(user)])).rest()
    assert [failure.status for failure in acknowledged.failures] == [pb.EVENT_STATUS_SUPPRESSED]


def test_a_user_never_seen_can_be_suppressed_ahead(server: Serving) -> None:
    user = new_name()
    assert delete(server, user, suppress=True) is False
    assert server.stub.Predict(predict([event(user)])).results[0].status == pb.EVENT_STATUS_SUPPRESSED


def test_the_user_of_the_same_name_is_not_suppressed_with_the_visitor(server: Serving) -> None:
    name = new_name()
    server.stub.DeleteUser(pb.DeleteUserRequest(anonymous_id=name, suppress=True))
    answer = server.stub.Predict(predict([event(name), event(anonymous_id=name)]))
    assert [result.status for result in answer.results] == [pb.EVENT_STATUS_ACCEPTED, pb.EVENT_STATUS_SUPPRESSED]
