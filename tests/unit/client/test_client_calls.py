"""Unary calls of both clients against a server of the contract."""

from __future__ import annotations

import math
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import grpc
import numpy as np
import pytest
from fake_server import UNAVAILABLE, FakeServer, bad_request, overloaded

from nextact import Client, Content, Deadlines, Event, EventStatus, Item, ItemFilter, ItemStatus, NextactError
from nextact.channel import rpc_name
from nextact.v1 import behavior_pb2 as pb


def test_predict_answers_typed_values(client: Any) -> None:
    answer = client.predict([Event(user_id="ada", action="view", item_id="1")], top_k=5)
    assert [r.status for r in answer.results] == [EventStatus.ACCEPTED]
    who = answer.predictions[0]
    assert who.embedding.dtype == np.float32
    assert who.embedding.tolist() == [0.5, -0.25, 1.0]
    assert who.actions == {"view": 0.75, "like": 0.25}
    assert list(who.items) == [("2", -0.5), ("1", -1.5)]
    assert (who.next.horizon_s, who.events_seen, answer.durability) == (3600, 3, "SYNC")
    assert (answer.model.version, answer.timing.store_us) == ("7", 3)


def test_predict_sends_what_was_asked(client: Any, server: FakeServer) -> None:
    as_of = datetime(2024, 5, 1, tzinfo=UTC)
    client.predict(
        [{"anonymous_id": "x", "action": "view"}],
        history=[Event(anonymous_id="x", action="like", event_time=1_000_000)],
        request_id="r",
        top_k=3,
        outputs=["items", "NEXT"],
        dry_run=True,
        model_version="2",
        filter=ItemFilter(exclude_seen=False, exclude_item_ids=("9",), attributes={"genre": "war"}),
        as_of=as_of,
    )
    [request] = server.attempts("Predict")
    options = request.options
    assert (options.top_k, list(options.outputs), options.dry_run) == (3, [pb.OUTPUT_ITEMS, pb.OUTPUT_NEXT], True)
    assert options.filter.HasField("exclude_seen")
    assert (options.filter.exclude_item_ids, dict(options.filter.attributes)) == (["9"], {"genre": "war"})
    assert options.as_of.ToDatetime(UTC) == as_of
    assert (request.history[0].event_time.seconds, request.request_id, options.model_version) == (1, "r", "2")


def test_a_call_is_tried_again_with_the_same_message_ids_and_times(client: Any, server: FakeServer) -> None:
    server.refusals.extend([UNAVAILABLE, UNAVAILABLE])
    answer = client.predict([{"user_id": "ada", "action": "view"}], timeout=30)
    first, second, third = server.attempts("Predict")
    assert first == second == third
    assert answer.results[0].message_id == first.events[0].message_id != ""
    assert first.events[0].HasField("event_time")


def test_unavailable_is_given_up_after_four_attempts(client: Any, server: FakeServer) -> None:
    server.refusals.extend([UNAVAILABLE] * 9)
    with pytest.raises(NextactError) as caught:
        client.get_item("1", timeout=30)
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert len(server.attempts("GetItem")) == 4


def test_a_large_call_is_tried_again_too(client: Any, server: FakeServer) -> None:
    server.refusals.append(UNAVAILABLE)
    client.upsert_items([Item("1", image=bytes(3_000_000))])
    assert len(server.attempts("UpsertItems")) == 2


def test_what_is_too_much_is_not_tried_again_and_says_when_to(client: Any, server: FakeServer) -> None:
    server.refusals.append(overloaded(1.5))
    with pytest.raises(NextactError) as caught:
        client.rank("ada")
    assert caught.value.retry_after_s == 1.5
    assert str(caught.value) == "RESOURCE_EXHAUSTED: the queue is full; try again in 1.5 s"
    assert len(server.attempts("Rank")) == 1


def test_a_bad_request_names_the_field(client: Any, server: FakeServer) -> None:
    server.refusals.append(bad_request("options.top_k", "2000 is over the limit of 1000"))
    with pytest.raises(NextactError) as caught:
        client.predict([], top_k=2000)
    assert [(v.field, v.description) for v in caught.value.violations] == [
        ("options.top_k", "2000 is over the limit of 1000")
    ]
    assert str(caught.value) == "INVALID_ARGUMENT: bad request; options.top_k: 2000 is over the limit of 1000"


def test_every_call_has_a_deadline_and_the_metadata(client: Any, server: FakeServer) -> None:
    client.predict([])
    client.predict([], timeout=90)
    client.predict([], timeout=math.inf)
    default, longer, none = server.metadata
    assert 0 < default["remaining_s"] < 31 < longer["remaining_s"] < 91
    assert none["remaining_s"] is None or none["remaining_s"] > 1e6
    assert default["authorization"] == "Bearer x"


def test_every_unary_method_of_the_service_has_a_deadline_and_is_tried_again() -> None:
    service = pb.DESCRIPTOR.services_by_name["BehaviorService"]
    unary = {method.name for method in service.methods if not method.client_streaming}
    assert {rpc_name(field.name) for field in fields(Deadlines)} == unary


def test_nobody_listening_is_one_readable_line() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(NextactError) as caught:
        client.get_user("ada", timeout=20)
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert "\n" not in str(caught.value)


def test_embed_takes_texts_images_and_both_and_marks_what_failed(client: Any, server: FakeServer) -> None:
    answer = client.embed(["a text", b"image", Content("both", b"image"), b"broken"])
    assert answer.vectors.shape == (4, 2)
    assert answer.vectors.dtype == np.float32
    assert np.isnan(answer.vectors[3]).all()
    assert np.isfinite(answer.vectors[:3]).all()
    assert answer.errors == {3: "not an image"}
    sent = server.attempts("Embed")[0].contents
    assert [(c.text, c.image) for c in sent] == [("a text", b""), ("", b"image"), ("both", b"image"), ("", b"broken")]


def test_embed_of_more_than_a_call_takes_goes_in_several(client: Any, server: FakeServer) -> None:
    assert client.embed(["x"] * 600).vectors.shape == (600, 2)
    assert [len(r.contents) for r in server.attempts("Embed")] == [256, 256, 88]
    assert client.embed([]).vectors.shape == (0, 0)


def test_rank_scores_candidates(client: Any, server: FakeServer) -> None:
    answer = client.rank(
        anonymous_id="x", candidates=["7", "8"], top_k=2, filter=ItemFilter(exclude_seen=True), as_of=5_000_000
    )
    assert (answer.items.ids, answer.items.scores.tolist(), answer.events_seen) == (("7", "8"), [0.0, -1.0], 9)
    [request] = server.attempts("Rank")
    assert (request.anonymous_id, request.top_k, request.filter.exclude_seen, request.as_of.seconds) == (
        "x",
        2,
        True,
        5,
    )


def test_items_are_registered_read_listed_and_deleted(client: Any) -> None:
    item = Item("1", text="Heat", image=b"\x00jpg", attributes={"genre": "crime"}, available=False)
    assert [r.status for r in client.upsert_items([item, Item("2")])] == [ItemStatus.CREATED] * 2
    assert [r.status for r in client.upsert_items([item])] == [ItemStatus.UPDATED]
    assert client.get_item("1") == item
    assert client.delete_item("1") is True
    assert client.delete_item("1") is False
    with pytest.raises(NextactError, match="NOT_FOUND: no item '1'"):
        client.get_item("1")


def test_a_catalogue_of_any_size_is_registered_and_listed_in_parts(client: Any, server: FakeServer) -> None:
    names = [f"{n:05}" for n in range(2500)]
    assert len(client.upsert_items(Item(name) for name in names)) == 2500
    assert [len(r.items) for r in server.attempts("UpsertItems")] == [1000, 1000, 500]
    assert [item.item_id for item in client.list_items(page_size=1000)] == names
    assert len(server.attempts("ListItems")) == 3


def test_large_images_are_registered_in_parts_that_fit_a_message(client: Any, server: FakeServer) -> None:
    client.upsert_items(Item(str(n), image=bytes(8 * 1024 * 1024)) for n in range(4))
    assert [len(r.items) for r in server.attempts("UpsertItems")] == [3, 1]


def test_a_user_is_read_and_erased(client: Any, server: FakeServer) -> None:
    user = client.get_user("ada", page_size=5, page_token="t")
    at = datetime.fromtimestamp(1_700_000_000, UTC).replace(microsecond=1)
    [entry] = user.history
    assert (user.events_seen, user.last_event_time, entry.effective_time) == (1, at, at)
    assert (entry.status, entry.event.properties, entry.content_hash) == (EventStatus.LATE, {"page": "home"}, b"\x01")
    assert (server.attempts("GetUser")[0].page_size, server.attempts("GetUser")[0].page_token) == (5, "t")
    assert client.delete_user("ada", suppress=True) is True
    assert client.delete_user(anonymous_id="x") is False
    assert server.attempts("DeleteUser")[0].suppress
