"""Bytes that nobody should send: refused by name, neighbours untouched, and never INTERNAL or UNKNOWN."""

import random
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.struct_pb2 import Struct
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.event_makers import event, new_name, predict
from support.open_stream import OpenStream
from support.open_stream import outcome as stream_outcome
from support.pictures import bomb, picture, truncated
from support.refusals import refusal_of, refused
from support.serving import Serving

from nextact.v1 import behavior_pb2 as pb

METHODS = {
    "Predict": pb.PredictRequest,
    "Embed": pb.EmbedRequest,
    "Rank": pb.RankRequest,
    "UpsertItems": pb.UpsertItemsRequest,
    "GetItem": pb.GetItemRequest,
    "DeleteItem": pb.DeleteItemRequest,
    "ListItems": pb.ListItemsRequest,
    "GetUser": pb.GetUserRequest,
    "DeleteUser": pb.DeleteUserRequest,
}
EXPECTED = {"OK", "INVALID_ARGUMENT", "NOT_FOUND"}
methods = pytest.mark.parametrize("method", METHODS)


def outcome(server: Serving, method: str, payload: bytes) -> str:
    try:
        server.raw(method, payload)
    except grpc.RpcError as error:
        return str(error.code().name)  # type: ignore[attr-defined]
    return "OK"


def field(number: int, value: bytes) -> bytes:
    """A length-delimited field as protobuf writes it."""
    assert len(value) < 128
    return bytes([number << 3 | 2, len(value)]) + value


BAD_TEXT = b"ok\xff\xfe"
BROKEN_UTF8: list[tuple[str, bytes, str]] = [
    ("Predict", field(1, field(8, BAD_TEXT)), "events[0].text"),
    ("Predict", field(1, b"") + field(1, field(2, BAD_TEXT)), "events[1].user_id"),
    ("Predict", field(2, field(4, BAD_TEXT)), "history[0].action"),
    ("Predict", field(4, BAD_TEXT), "request_id"),
    ("Rank", field(1, BAD_TEXT), "user_id"),
    ("Rank", field(2, b"good") + field(2, BAD_TEXT), "candidates[1]"),
    ("Embed", field(1, field(1, BAD_TEXT)), "contents[0].text"),
    ("UpsertItems", field(1, field(2, BAD_TEXT)), "items[0].text"),
    ("GetItem", field(1, BAD_TEXT), "item_id"),
    ("DeleteItem", field(1, BAD_TEXT), "item_id"),
    ("ListItems", field(2, BAD_TEXT), "page_token"),
    ("GetUser", field(1, BAD_TEXT), "user_id"),
    ("DeleteUser", field(3, BAD_TEXT), "anonymous_id"),
]


@pytest.mark.parametrize(("method", "payload", "name"), BROKEN_UTF8)
def test_broken_utf8_is_invalid_and_the_field_named(server: Serving, method: str, payload: bytes, name: str) -> None:
    refusal = refused(lambda: server.raw(method, payload))
    assert (refusal.code.name, refusal.fields) == ("INVALID_ARGUMENT", (name,))
    assert "UTF-8" in refusal.message


def test_broken_utf8_ends_a_stream_after_what_came_before_it(server: Serving) -> None:
    user = new_name()
    good = pb.StreamEventsRequest(number=1, rows=pb.EventRows(events=[event(user)]))
    bad = b"\x08\x02" + field(2, field(1, field(8, BAD_TEXT)))
    acknowledged, error = OpenStream(server.channel).send(good, bad).failure()
    refusal = refusal_of(error)
    assert (refusal.code.name, refusal.fields) == ("INVALID_ARGUMENT", ("rows.events[0].text",))
    assert [answer.number for answer in acknowledged] == [1]


@methods
def test_bytes_that_end_too_early_are_invalid(server: Serving, method: str) -> None:
    refusal = refused(lambda: server.raw(method, b"\x0a\x7fabc"))
    assert refusal.code.name == "INVALID_ARGUMENT"
    assert refusal.fields


@methods
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(payload=st.binary(max_size=200))
def test_random_bytes_never_break_a_method(server: Serving, method: str, payload: bytes) -> None:
    assert outcome(server, method, payload) in EXPECTED


@methods
def test_damaged_messages_never_break_a_method(server: Serving, method: str) -> None:
    dice = random.Random(method)
    whole = {
        "Predict": predict([event(new_name(), text="hi", image=picture(side=8)), event(new_name())], top_k=3),
        "Embed": pb.EmbedRequest(contents=[pb.Content(text="hi"), pb.Content(image=picture(side=8))]),
        "Rank": pb.RankRequest(user_id="damaged", candidates=["item-01", "item-02"], top_k=2),
        "UpsertItems": pb.UpsertItemsRequest(items=[pb.Item(item_id="damaged", text="t", attributes={"a": "b"})]),
    }.get(method, METHODS[method]())
    payload = whole.SerializeToString() or b"\x0a\x03abc\x10\x05"
    for _ in range(60):
        damaged = bytearray(payload)
        for _ in range(dice.randint(1, 4)):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        assert outcome(server, method, bytes(damaged[: dice.randint(1, len(damaged))])) in EXPECTED
    for item in list(server.client().list_items()):
        if item.item_id.isprintable() and "damaged" in item.item_id:
            server.client().delete_item(item.item_id)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(payload=st.binary(max_size=200), prefix=st.sampled_from([b"", b"\x08\x01", b"\x08\x01\x1a"]))
def test_random_bytes_never_break_a_stream(server: Serving, payload: bytes, prefix: bytes) -> None:
    stream = OpenStream(server.channel).send(prefix + payload).done()
    assert stream_outcome(stream) in ("OK", "INVALID_ARGUMENT")


def test_an_unknown_method_is_unimplemented(server: Serving) -> None:
    assert refused(lambda: server.raw("Forget", b"")).code.name == "UNIMPLEMENTED"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_none_in_properties_are_recorded_as_given(server: Serving, number: float) -> None:
    user = new_name()
    properties = Struct()
    properties.update({"price": number, "nested": {"deep": [number, 1.0]}})
    answer = server.stub.Predict(predict([event(user, properties=properties), event(user, 1)]))
    assert [result.status for result in answer.results] == [pb.EVENT_STATUS_ACCEPTED] * 2
    assert np.isfinite(answer.predictions[0].embedding).all()
    held = server.stub.GetUser(pb.GetUserRequest(user_id=user)).history[1].event.properties["price"]
    assert str(held) == str(number)


def test_a_megabyte_of_text_fails_its_event_alone(server: Serving) -> None:
    user = new_name()
    answer = server.stub.Predict(predict([event(user, text="x" * 1_048_576), event(user, text="short")]))
    assert [result.status for result in answer.results] == [pb.EVENT_STATUS_INVALID, pb.EVENT_STATUS_ACCEPTED]
    assert answer.results[0].field == "text"
    embedded = server.stub.Embed(pb.EmbedRequest(contents=[pb.Content(text="x" * 1_048_576), pb.Content(text="short")]))
    assert "max_text_bytes" in embedded.embeddings[0].error
    assert embedded.embeddings[1].values


BAD_IMAGES: dict[str, bytes] = {
    "truncated": truncated(),
    "bomb": bomb(),
    "text": b"this is no image",
    "only a header": picture()[:20],
    "zero": b"\0" * 1000,
    "png without data": bomb(4, 4)[:40],
    "webp cut": picture(kind="WEBP")[:60],
    "gif": b"GIF89a" + bytes(50),
}


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_a_bad_image_fails_its_event_alone_with_all_its_neighbours_as_without_it(server: Serving, kind: str) -> None:
    user, twin = new_name(), new_name()
    good = [event(user, 0, image=picture(1)), event(user, 2, text="fine")]
    answer = server.stub.Predict(predict([good[0], event(user, 1, image=BAD_IMAGES[kind]), good[1]]))
    assert [result.status for result in answer.results] == [
        pb.EVENT_STATUS_ACCEPTED,
        pb.EVENT_STATUS_INVALID,
        pb.EVENT_STATUS_ACCEPTED,
    ]
    assert answer.results[1].field == "image"
    assert answer.results[1].reason
    without = server.stub.Predict(predict([event(twin, 0, image=picture(1)), event(twin, 2, text="fine")]))
    assert answer.predictions[0].events_seen == 2
    np.testing.assert_allclose(answer.predictions[0].embedding, without.predictions[0].embedding, atol=1e-5)


def test_bad_images_in_embed_have_an_error_each_and_their_neighbours_vectors(server: Serving) -> None:
    contents: list[Any] = []
    for bad in BAD_IMAGES.values():
        contents += [pb.Content(image=bad), pb.Content(image=picture(2))]
    contents += [pb.Content(), pb.Content(text="t", image=truncated()), pb.Content(text="t", image=picture(2))]
    embeddings = server.stub.Embed(pb.EmbedRequest(contents=contents)).embeddings
    assert [bool(one.error) for one in embeddings] == [True, False] * len(BAD_IMAGES) + [True, True, False]
    for one in embeddings:
        assert bool(one.values) is not bool(one.error)
        if one.values:
            assert np.linalg.norm(one.values) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_pictures_of_every_promised_kind_are_embedded(server: Serving, kind: str) -> None:
    answer = server.stub.Embed(pb.EmbedRequest(contents=[pb.Content(image=picture(5, 64, kind))]))
    assert len(answer.embeddings[0].values) == 384
    assert answer.model.name == "text_encoder/1+image_encoder/1"


def test_the_same_contents_embedded_together_and_alone_are_the_same(server: Serving) -> None:
    contents = [pb.Content(text=f"text {number} " * (number + 1)) for number in range(6)]
    contents += [pb.Content(image=picture(100 + number)) for number in range(4)]
    together = server.stub.Embed(pb.EmbedRequest(contents=contents)).embeddings
    for content, vector in zip(contents, together, strict=True):
        (alone,) = server.stub.Embed(pb.EmbedRequest(contents=[content])).embeddings
        np.testing.assert_allclose(alone.values, vector.values, atol=1e-5)


def test_ids_may_hold_any_character(server: Serving) -> None:
    for name in ("\x00", "a\nb", "💡" * 10, " ", "\u202e", "'; DROP TABLE users; --"):
        user = new_name() + name
        server.stub.Predict(predict([event(user, item_id=name, message_id=name)]))
        held = server.stub.GetUser(pb.GetUserRequest(user_id=user))
        assert (held.user_id, held.history[0].event.item_id) == (user, name)
