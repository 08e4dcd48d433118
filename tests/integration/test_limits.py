"""Every limit: kept to the byte, and told by name when broken by one."""

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct
from support.event_makers import arrow_message, event, new_name, predict, rows_message
from support.open_stream import OpenStream
from support.pictures import bomb, flat, picture
from support.refusals import refusal_of, refused
from support.serving import Serving, StartServer

from nextact.v1 import behavior_pb2 as pb

ACCEPTED, INVALID = pb.EVENT_STATUS_ACCEPTED, pb.EVENT_STATUS_INVALID
MIB = 1024 * 1024


def properties(size: int) -> Struct:
    """Properties of so many bytes, serialized."""
    for key in ("k", "kk"):  # the lengths that are part of the size grow by steps: one of the keys fits
        for length in range(size - 32, size):
            struct = Struct()
            struct.update({key: "x" * length})
            if struct.ByteSize() == size:
                return struct
    raise AssertionError(size)


# What an event may carry at most, and one more: (field, at the limit, beyond it, the setting).
EVENT_LIMITS = [
    ("user_id", "u" * 256, "u" * 257, "max_id_bytes"),
    ("user_id", "é" * 128, "é" * 128 + "e", "max_id_bytes"),
    ("anonymous_id", "a" * 256, "a" * 257, "max_id_bytes"),
    ("message_id", "€" * 85 + "m", "€" * 85 + "mm", "max_id_bytes"),
    ("item_id", "i" * 256, "i" * 257, "max_id_bytes"),
    ("session_id", "s" * 256, "s" * 257, "max_id_bytes"),
    ("action", "v" * 128, "v" * 129, "max_action_bytes"),
    ("action", "é" * 64, "é" * 64 + "e", "max_action_bytes"),
    ("text", "t" * 65_536, "t" * 65_537, "max_text_bytes"),
    ("text", "é" * 32_768, "é" * 32_768 + "e", "max_text_bytes"),
    ("properties", properties(16_384), properties(16_385), "max_properties_bytes"),
]
names = [f"{field}-{setting}-{at}" for at, (field, _, _, setting) in enumerate(EVENT_LIMITS)]


@pytest.mark.parametrize(("field", "most", "beyond", "setting"), EVENT_LIMITS, ids=names)
def test_an_event_may_be_as_large_as_its_limits_and_one_more_makes_it_alone_invalid(
    server: Serving, field: str, most: Any, beyond: Any, setting: str
) -> None:
    user, neighbour = new_name(), new_name()
    events = [event(**{"user": user, field if field != "user_id" else "user": value}) for value in (most, beyond)]
    answer = server.stub.Predict(predict([events[0], event(neighbour, 0), events[1], event(neighbour, 1)], top_k=1))
    assert [result.status for result in answer.results] == [ACCEPTED, ACCEPTED, INVALID, ACCEPTED]
    result = answer.results[2]
    assert result.field == field
    assert setting in result.reason
    assert {p.user_id: p.events_seen for p in answer.predictions}[neighbour] == 2
    if field == "user_id":
        server.stub.DeleteUser(pb.DeleteUserRequest(user_id=most))


@pytest.mark.parametrize(("field", "most", "beyond", "setting"), EVENT_LIMITS[:-1], ids=names[:-1])
def test_the_limits_of_events_hold_for_arrow(server: Serving, field: str, most: Any, beyond: Any, setting: str) -> None:
    user = new_name()
    events = [event(**{"user": user, field if field != "user_id" else "user": value}) for value in (most, beyond)]
    (answer,) = OpenStream(server.channel).send(arrow_message(1, [*events, event(user)])).rest()
    assert answer.accepted == 2
    (failure,) = answer.failures
    assert (failure.index, failure.status, failure.field) == (1, INVALID, field)
    assert setting in failure.reason
    if field == "user_id":
        server.stub.DeleteUser(pb.DeleteUserRequest(user_id=most))


@pytest.mark.parametrize("field", ["user_id", "action"])
def test_what_is_required_must_not_be_empty(server: Serving, field: str) -> None:
    user = new_name()
    bad = event(user) if field == "action" else event()
    if field == "action":
        bad.action = ""
    answer = server.stub.Predict(predict([bad, event(user)]))
    assert [result.status for result in answer.results] == [INVALID, ACCEPTED]
    assert answer.results[0].field == field


def test_an_image_is_bounded_in_bytes_and_in_pixels(server: Serving) -> None:
    user = new_name()
    padded = picture() + bytes(8 * MIB - len(picture()))
    images = [padded, padded + b"\0", flat(5000, 5000), flat(5001, 5000), bomb(), picture(3)]
    answer = server.stub.Predict(predict([event(user, at, image=image) for at, image in enumerate(images)]))
    assert [result.status for result in answer.results] == [ACCEPTED, INVALID, ACCEPTED, INVALID, INVALID, ACCEPTED]
    assert {result.field for result in answer.results if result.status == INVALID} == {"image"}
    assert "max_image_bytes" in answer.results[1].reason
    for pixels in (3, 4):
        assert "max_image_pixels" in answer.results[pixels].reason
    assert answer.predictions[0].events_seen == 3


def test_a_thousand_events_are_taken_and_one_more_is_refused(server: Serving) -> None:
    user = new_name()
    events = [event(user, number / 10) for number in range(1001)]
    refusal = refused(lambda: server.stub.Predict(predict(events)))
    assert (refusal.code.name, refusal.fields) == ("INVALID_ARGUMENT", ("events",))
    assert "1001" in refusal.message
    assert "max_predict_events" in refusal.message
    answer = server.stub.Predict(predict(events[:1000], top_k=1))
    assert {result.status for result in answer.results} == {ACCEPTED}
    assert answer.predictions[0].events_seen == 1000


def test_history_is_counted_apart(server: Serving) -> None:
    user = new_name()
    events = [event(user, number / 10) for number in range(1001)]
    answer = server.stub.Predict(pb.PredictRequest(history=events[:1000], events=events[:1000]))
    assert len(answer.results) == 1000
    refusal = refused(lambda: server.stub.Predict(pb.PredictRequest(history=events)))
    assert (refusal.code.name, refusal.fields) == ("INVALID_ARGUMENT", ("history",))


CALL_LIMITS: list[tuple[str, Callable[[], Any], str, str]] = [
    ("Predict", lambda: predict([], top_k=1001), "options.top_k", "max_top_k"),
    ("Predict", lambda: predict([], top_k=-1), "options.top_k", "max_top_k"),
    ("Predict", lambda: pb.PredictRequest(request_id="é" * 129), "request_id", "max_id_bytes"),
    (
        "Predict",
        lambda: predict([], filter=pb.ItemFilter(include_item_ids=["x"] * 20_001)),
        "options.filter.include_item_ids",
        "max_candidates",
    ),
    (
        "Predict",
        lambda: predict([], filter=pb.ItemFilter(exclude_item_ids=["x"] * 20_001)),
        "options.filter.exclude_item_ids",
        "max_candidates",
    ),
    ("Embed", lambda: pb.EmbedRequest(contents=[pb.Content(text="x")] * 257), "contents", "max_embed_contents"),
    ("Rank", lambda: pb.RankRequest(user_id="x" * 257), "user_id", "max_id_bytes"),
    ("Rank", lambda: pb.RankRequest(anonymous_id="x" * 257), "anonymous_id", "max_id_bytes"),
    ("GetUser", lambda: pb.GetUserRequest(user_id="x" * 257), "user_id", "max_id_bytes"),
    ("DeleteUser", lambda: pb.DeleteUserRequest(anonymous_id="é" * 129), "anonymous_id", "max_id_bytes"),
]


@pytest.mark.parametrize(("method", "request_of", "field", "setting"), CALL_LIMITS)
def test_a_broken_limit_of_a_call_is_invalid_and_names_field_and_setting(
    server: Serving, method: str, request_of: Callable[[], Any], field: str, setting: str
) -> None:
    refusal = refused(lambda: getattr(server.stub, method)(request_of()))
    assert (refusal.code.name, refusal.fields) == ("INVALID_ARGUMENT", (field,))
    assert setting in refusal.message


def test_calls_may_be_as_large_as_their_limits(server: Serving) -> None:
    user = new_name()
    wide = pb.ItemFilter(exclude_item_ids=["x"] * 20_000)
    answer = server.stub.Predict(predict([event(user)], top_k=1000, filter=wide))
    assert len(answer.predictions[0].items) >= 60
    embedded = server.stub.Embed(pb.EmbedRequest(contents=[pb.Content(text="x")] * 256))
    assert len(embedded.embeddings) == 256


def test_a_stream_names_the_option_that_is_wrong(server: Serving) -> None:
    stream = OpenStream(server.channel).send(rows_message(1, [event(new_name())], top_k=1001))
    refusal = refusal_of(stream.failure()[1])
    assert (refusal.code.name, refusal.fields) == ("INVALID_ARGUMENT", ("options.top_k",))


def sized(kind: Any, field: str, size: int, **fields: Any) -> bytes:
    """A serialized message of exactly so many bytes, filled up in a bytes or string field."""
    message = kind(**fields)
    filling = size - message.ByteSize()
    for _ in range(6):
        setattr(message, field, b"\0" * filling if isinstance(getattr(message, field), bytes) else "\0" * filling)
        filling += size - message.ByteSize()
    assert message.ByteSize() == size
    return bytes(message.SerializeToString())


@pytest.mark.parametrize("beyond", [1, 40 * MIB])
def test_a_message_over_the_limit_is_resource_exhausted_and_nothing_of_it_applied(
    start_server: StartServer, beyond: int, transport: str
) -> None:
    server = start_server(max_message_bytes=MIB)
    user = new_name()
    payload = sized(pb.PredictRequest, "request_id", MIB + beyond, events=[event(user)])
    refusal = refused(lambda: server.raw("Predict", payload))
    assert refusal.code.name == "RESOURCE_EXHAUSTED"
    # What is far beyond the limit is refused by grpcio before it is read, in words of its own.
    if beyond == 1 or transport == "native":
        assert "max_message_bytes" in refusal.message
    assert server.stub.Rank(pb.RankRequest(user_id=user, top_k=1)).events_seen == 0
    stream = OpenStream(server.channel).send(sized(pb.StreamEventsRequest, "arrow_ipc", MIB + beyond, number=1))
    refusal = refusal_of(stream.failure()[1])
    assert refusal.code.name == "RESOURCE_EXHAUSTED"
    if beyond == 1:
        assert "max_message_bytes" in refusal.message
    assert server.stub.Predict(predict([event(user)])).results[0].status == ACCEPTED


def test_a_message_at_the_limit_is_read(start_server: StartServer) -> None:
    server = start_server(max_message_bytes=MIB)
    payload = sized(pb.PredictRequest, "request_id", MIB)
    refusal = refused(lambda: server.raw("Predict", payload))
    assert (refusal.code.name, refusal.fields) == ("INVALID_ARGUMENT", ("request_id",))


def test_an_answer_holds_so_many_ranked_items_and_no_more(start_server: StartServer) -> None:
    server = start_server(max_ranked_items=6)
    events = [event(new_name()) for _ in range(3)]
    assert len(server.stub.Predict(predict(events, top_k=2)).predictions) == 3
    refusal = refused(lambda: server.stub.Predict(predict(events, top_k=3)))
    assert refusal.code.name == "INVALID_ARGUMENT"
    assert "max_ranked_items" in refusal.message
    scores = server.stub.Predict(predict(events, top_k=3, outputs=["OUTPUT_ACTIONS"]))
    assert len(scores.predictions) == 3


def test_long_texts_make_short_pages_and_nothing_is_left_out(start_server: StartServer) -> None:
    server = start_server(max_message_bytes=64 * 1024)
    ids = [f"{at:02d}" for at in range(12)]
    for item_id in ids:
        server.stub.UpsertItems(pb.UpsertItemsRequest(items=[pb.Item(item_id=item_id, text="long " * 4000)]))
    listed, token = [], ""
    while True:
        page = server.stub.ListItems(pb.ListItemsRequest(page_size=100, page_token=token))
        assert page.ByteSize() <= 64 * 1024
        listed += [item.item_id for item in page.items]
        token = page.next_page_token
        if not token:
            break
    assert listed == ids
