"""The catalogue: items come, are found, ranked by their content, listed in pages, and go."""

from collections.abc import Iterator

import pytest
from support.event_makers import event, new_name, predict
from support.pictures import bomb, picture, truncated
from support.refusals import refused
from support.serving import Serving
from support.tiny_model import ITEMS

from nextact.v1 import behavior_pb2 as pb

CREATED, UPDATED, INVALID = pb.ITEM_STATUS_CREATED, pb.ITEM_STATUS_UPDATED, pb.ITEM_STATUS_INVALID


@pytest.fixture
def name(server: Serving) -> Iterator[str]:
    """A prefix for items that are gone after the test."""
    prefix = new_name("thing")
    yield prefix
    for item in server.client().list_items(page_size=1000):
        if item.item_id.startswith(prefix):
            server.stub.DeleteItem(pb.DeleteItemRequest(item_id=item.item_id))


def upsert(server: Serving, *items: pb.Item) -> list[pb.ItemResult]:
    return list(server.stub.UpsertItems(pb.UpsertItemsRequest(items=items)).results)


def statuses(results: list[pb.ItemResult]) -> list[int]:
    return [result.status for result in results]


def rankable(server: Serving, **fields: object) -> set[str]:
    return {item.item_id for item in server.stub.Rank(pb.RankRequest(user_id="reader", top_k=1000, **fields)).items}


def test_an_item_comes_is_returned_replaced_and_goes(server: Serving, name: str) -> None:
    item = pb.Item(item_id=name, text="red shoes", image=picture(), attributes={"kind": "shoe"})
    assert statuses(upsert(server, item)) == [CREATED]
    got = server.stub.GetItem(pb.GetItemRequest(item_id=name))
    assert (got.text, got.image, dict(got.attributes), got.available) == (item.text, item.image, {"kind": "shoe"}, True)
    assert statuses(upsert(server, pb.Item(item_id=name, text="blue shoes"))) == [UPDATED]
    got = server.stub.GetItem(pb.GetItemRequest(item_id=name))
    assert (got.text, got.image, dict(got.attributes)) == ("blue shoes", b"", {})
    assert server.stub.DeleteItem(pb.DeleteItemRequest(item_id=name)).existed is True
    assert server.stub.DeleteItem(pb.DeleteItemRequest(item_id=name)).existed is False
    refusal = refused(lambda: server.stub.GetItem(pb.GetItemRequest(item_id=name)))
    assert refusal.code.name == "NOT_FOUND"
    assert name in refusal.message


def test_an_item_never_trained_on_is_ranked_by_its_content_until_it_goes(server: Serving, name: str) -> None:
    upsert(server, pb.Item(item_id=name, text="a tale of two cities"))
    assert name in rankable(server)
    answer = server.stub.Predict(predict([event(new_name(), item_id=name)]))
    assert answer.results[0].applied
    server.stub.DeleteItem(pb.DeleteItemRequest(item_id=name))
    assert name not in rankable(server)


def test_an_item_without_content_and_training_is_not_ranked(server: Serving, name: str) -> None:
    assert statuses(upsert(server, pb.Item(item_id=name))) == [CREATED]
    assert name not in rankable(server, candidates=[name, ITEMS[0]])


def test_an_item_that_is_not_available_is_not_ranked_until_it_is(server: Serving, name: str) -> None:
    upsert(server, pb.Item(item_id=name, text="soup", available=False))
    assert name not in rankable(server)
    upsert(server, pb.Item(item_id=name, text="soup", available=True))
    assert name in rankable(server)


def test_a_trained_item_is_no_longer_ranked_once_deleted_until_it_is_registered_again(server: Serving) -> None:
    upsert(server, pb.Item(item_id=ITEMS[5]))
    assert server.stub.DeleteItem(pb.DeleteItemRequest(item_id=ITEMS[5])).existed is True
    assert ITEMS[5] not in rankable(server)
    assert statuses(upsert(server, pb.Item(item_id=ITEMS[5]))) == [CREATED]
    assert ITEMS[5] in rankable(server)


def test_attributes_filter_ranking(server: Serving, name: str) -> None:
    colours = {"a": "red", "b": "red", "c": "blue"}
    upsert(
        server,
        *(pb.Item(item_id=f"{name}-{k}", text=k, attributes={"colour": v, "of": name}) for k, v in colours.items()),
    )
    wish = pb.ItemFilter(attributes={"colour": "red", "of": name})
    assert rankable(server, filter=wish) == {f"{name}-a", f"{name}-b"}
    upsert(server, pb.Item(item_id=f"{name}-a", text="a", attributes={"colour": "blue", "of": name}))
    assert rankable(server, filter=wish) == {f"{name}-b"}
    assert rankable(server, filter=pb.ItemFilter(attributes={"colour": "no such"})) == set()


def test_pages_list_every_item_once_in_order_of_id_without_images(server: Serving, name: str) -> None:
    wanted = [f"{name}-{number:02d}" for number in range(7)]
    upsert(server, *(pb.Item(item_id=item, image=picture()) for item in reversed(wanted)))
    listed: list[pb.Item] = []
    token = ""
    while True:
        page = server.stub.ListItems(pb.ListItemsRequest(page_size=3, page_token=token))
        assert len(page.items) <= 3
        listed += page.items
        token = page.next_page_token
        if not token:
            break
    ids = [item.item_id for item in listed]
    assert ids == sorted(set(ids))
    assert [item for item in ids if item.startswith(name)] == wanted
    assert not any(item.image for item in listed)


def test_the_last_page_says_that_it_is_the_last(server: Serving, name: str) -> None:
    upsert(server, *(pb.Item(item_id=f"{name}-{number}", text=str(number)) for number in range(4)))
    count = len(list(server.client().list_items()))
    page = server.stub.ListItems(pb.ListItemsRequest(page_size=count))
    assert (len(page.items), page.next_page_token) == (count, "")


@pytest.mark.parametrize("token", ["###", "aGVsbG8", "\x00", "é"])
def test_a_token_never_given_out_is_refused_by_name(server: Serving, token: str) -> None:
    refusal = refused(lambda: server.stub.ListItems(pb.ListItemsRequest(page_token=token)))
    assert (refusal.code.name, refusal.fields) == ("INVALID_ARGUMENT", ("page_token",))


@pytest.mark.parametrize("size", [-1, 1001])
def test_a_page_size_out_of_range_is_refused(server: Serving, size: int) -> None:
    for call in (
        lambda: server.stub.ListItems(pb.ListItemsRequest(page_size=size)),
        lambda: server.stub.GetUser(pb.GetUserRequest(user_id="ada", page_size=size)),
    ):
        refusal = refused(call)
        assert (refusal.code.name, refusal.fields) == ("INVALID_ARGUMENT", ("page_size",))
        assert "max_page_size" in refusal.message


def test_bad_items_are_refused_one_by_one_and_their_neighbours_registered(server: Serving, name: str) -> None:
    bad = {
        "": pb.Item(item_id="", text="no id"),
        "max_id_bytes": pb.Item(item_id=name + "x" * 257),
        "max_text_bytes": pb.Item(item_id=name + "-text", text="x" * 65_537),
        "max_image_bytes": pb.Item(item_id=name + "-large", image=b"\xff" * (8 * 1024 * 1024 + 1)),
        "max_properties_bytes": pb.Item(item_id=name + "-attributes", attributes={"k": "v" * 16_384}),
        "image": pb.Item(item_id=name + "-cut", image=truncated()),
        "max_image_pixels": pb.Item(item_id=name + "-bomb", image=bomb()),
    }
    good = [pb.Item(item_id=f"{name}-good{at}", text=f"good {at}", image=picture(at)) for at in range(2)]
    results = upsert(server, good[0], *bad.values(), good[1])
    assert statuses(results) == [CREATED, *[INVALID] * len(bad), CREATED]
    for (hint, _), result in zip(bad.items(), results[1:-1], strict=True):
        assert hint in result.reason, result
    listed = [item.item_id for item in server.client().list_items() if item.item_id.startswith(name)]
    assert listed == [f"{name}-good0", f"{name}-good1"]


def test_one_id_twice_in_a_call_is_created_then_updated_and_the_last_stays(server: Serving, name: str) -> None:
    results = upsert(server, pb.Item(item_id=name, text="first"), pb.Item(item_id=name, text="second"))
    assert statuses(results) == [CREATED, UPDATED]
    assert server.stub.GetItem(pb.GetItemRequest(item_id=name)).text == "second"


def test_a_thousand_items_are_taken_and_one_more_is_refused(server: Serving, name: str) -> None:
    items = [pb.Item(item_id=f"{name}-{number:04d}") for number in range(1001)]
    refusal = refused(lambda: upsert(server, *items))
    assert (refusal.code.name, refusal.fields) == ("INVALID_ARGUMENT", ("items",))
    assert "max_upsert_items" in refusal.message
    assert set(statuses(upsert(server, *items[:1000]))) == {CREATED}


@pytest.mark.parametrize("method", ["GetItem", "DeleteItem"])
def test_an_item_id_is_required_and_bounded(server: Serving, method: str) -> None:
    request = {"GetItem": pb.GetItemRequest, "DeleteItem": pb.DeleteItemRequest}[method]
    for item_id in ("", "é" * 129):
        refusal = refused(lambda item_id=item_id: getattr(server.stub, method)(request(item_id=item_id)))
        assert (refusal.code.name, refusal.fields) == ("INVALID_ARGUMENT", ("item_id",))
