"""The item index: what may be named, what may be ranked, and by which vectors."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_model import CONTENT_DIM, TRAINED, content_vector, small_index, small_model

from nextact_server.events.hashing import hash_strings
from nextact_server.sequence.config import FIRST_ITEM, NO_ITEM, UNKNOWN_ITEM
from nextact_server.sequence.index import IndexFull, IndexItem, ItemIndex, item_rows

MODEL = small_model()


def item(name: str, content: int | None = None, *, available: bool = True, **attributes: str) -> IndexItem:
    return IndexItem(name, None if content is None else content_vector(content), attributes, available)


def rankable(index: ItemIndex) -> set[str]:
    scores = index.logits(torch.zeros(1, MODEL.config.item_dim), None)[0]
    return set(index.ids(np.flatnonzero(torch.isfinite(scores).numpy())))


def vector(index: ItemIndex, name: str) -> torch.Tensor:
    return index.inputs(index.rows_of([name]))[0, : MODEL.config.item_dim]


def kind(index: ItemIndex, name: str) -> torch.Tensor:
    return index.inputs(index.rows_of([name]))[0, MODEL.config.item_dim :]


def wanted_vector(name: str, content: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    vocab = torch.tensor([FIRST_ITEM + TRAINED.index(name) if name in TRAINED else UNKNOWN_ITEM])
    shown = torch.zeros(1, CONTENT_DIM) if content is None else torch.from_numpy(content_vector(content))[None]
    has = torch.tensor([content is not None])
    return MODEL.item_vectors(vocab, shown, has)[0], MODEL.item_bias(vocab, shown, has)[0]


def assert_scored(index: ItemIndex, name: str, content: int | None) -> None:
    query = torch.randn(1, MODEL.config.item_dim)
    row = index.rows_of([name])
    by_id, bias = wanted_vector(name, content)
    wanted = (query @ by_id + bias)[0]
    torch.testing.assert_close(index.logits(query, row)[0, 0], wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(index.logits(query, None)[0, int(row[0])], wanted, rtol=0, atol=1e-5)


def test_trained_items_are_there_and_rankable_from_the_start() -> None:
    index = small_index(MODEL)
    assert len(index) == len(TRAINED)
    assert index.size == len(TRAINED) + FIRST_ITEM
    assert rankable(index) == set(TRAINED)
    assert index.ids(index.rows_of(TRAINED)) == list(TRAINED)
    assert_scored(index, "t03", None)


def test_the_reserved_rows_are_never_ranked() -> None:
    scores = small_index(MODEL).logits(torch.randn(2, MODEL.config.item_dim), None)
    assert torch.isneginf(scores[:, :FIRST_ITEM]).all()


def test_a_trained_item_with_content_is_its_id_and_its_content() -> None:
    index = small_index(MODEL)
    index.upsert([item("t03", 7)])
    assert_scored(index, "t03", 7)
    assert torch.equal(kind(index, "t03"), MODEL.kind_embedding.weight[FIRST_ITEM])


def test_an_item_never_trained_is_ranked_by_its_content_alone() -> None:
    index = small_index(MODEL)
    index.upsert([item("new", 7)])
    assert "new" in rankable(index)
    assert_scored(index, "new", 7)
    assert torch.equal(kind(index, "new"), MODEL.kind_embedding.weight[UNKNOWN_ITEM])


def test_an_item_without_id_and_content_can_be_named_but_not_ranked() -> None:
    index = small_index(MODEL)
    index.upsert([item("bare")])
    assert int(index.rows_of(["bare"])[0]) >= FIRST_ITEM
    assert rankable(index) == set(TRAINED)


def test_an_unavailable_item_is_not_ranked_but_keeps_its_vector() -> None:
    index = small_index(MODEL)
    index.upsert([item("new", 7, available=False), item("t01", available=False)])
    assert rankable(index) == set(TRAINED) - {"t01"}
    torch.testing.assert_close(vector(index, "new"), wanted_vector("new", 7)[0])
    index.upsert([item("new", 7), item("t01")])
    assert rankable(index) == {*TRAINED, "new"}


def test_an_upsert_replaces_all_that_was_known() -> None:
    index = small_index(MODEL)
    index.upsert([item("new", 7, colour="red")])
    index.upsert([item("new", None, colour="blue")])
    assert "new" not in rankable(index)
    assert not vector(index, "new").any()
    assert index.with_attributes({"colour": "red"}).tolist() == []
    assert index.with_attributes({"colour": "blue"}).tolist() == index.rows_of(["new"]).tolist()


def test_a_deleted_item_is_neither_ranked_nor_filtered_for() -> None:
    index = small_index(MODEL)
    index.upsert([item("new", 7, colour="red"), item("t01", 7, colour="red")])
    index.delete("new")
    index.delete("t01")
    assert rankable(index) == set(TRAINED) - {"t01"}
    assert index.with_attributes({"colour": "red"}).tolist() == []
    torch.testing.assert_close(vector(index, "t01"), wanted_vector("t01", None)[0], msg="it still enters states by id")
    assert not vector(index, "new").any()


def test_deleting_what_is_not_there_changes_nothing() -> None:
    index = small_index(MODEL)
    index.delete("nobody")
    index.delete("")
    assert rankable(index) == set(TRAINED)
    assert len(index) == len(TRAINED)


def test_a_reset_index_is_as_at_the_start_but_for_its_rows() -> None:
    index = small_index(MODEL)
    index.upsert([item("new", 7, colour="red"), item("t01", 5, available=False)])
    row = index.rows_of(["new"])
    index.reset()
    assert rankable(index) == set(TRAINED)
    assert index.with_attributes({"colour": "red"}).tolist() == []
    assert_scored(index, "t01", None)
    index.upsert([item("new", 8)])
    assert index.rows_of(["new"]).tolist() == row.tolist(), "a row is the item's for as long as the process lives"
    assert_scored(index, "new", 8)


def test_a_full_index_refuses_by_the_name_of_the_setting_and_changes_nothing() -> None:
    index = small_index(MODEL, max_items=len(TRAINED) + 1)
    index.upsert([item("a", 1, colour="red")])
    with pytest.raises(IndexFull, match=r"13 items and 2 new ones; the index holds at most 13 \(index_items\)"):
        index.upsert([item("a", 2, colour="blue"), item("b", 1), item("c", 1)])
    assert rankable(index) == {*TRAINED, "a"}
    assert_scored(index, "a", 1)
    assert index.with_attributes({"colour": "red"}).tolist() == index.rows_of(["a"]).tolist()
    assert index.rows_of(["b"]).tolist() == [UNKNOWN_ITEM]
    index.upsert([item("a", 2)])
    assert_scored(index, "a", 2)


def test_thousands_of_items_keep_their_ids_rows_and_vectors_as_the_index_grows() -> None:
    index = small_index(MODEL)
    names = [f"item-{number}" for number in range(3000)]
    for start in range(0, 3000, 700):
        index.upsert([item(name, number % 50) for number, name in enumerate(names)][start : start + 700])
    assert index.ids(index.rows_of(names)) == names
    assert len(set(index.rows_of(names).tolist())) == 3000
    assert rankable(index) == {*TRAINED, *names}
    for number in (0, 699, 700, 1500, 2999):
        assert_scored(index, names[number], number % 50)
    assert_scored(index, "t11", None)


def test_items_of_all_attributes_asked_for_are_found() -> None:
    index = small_index(MODEL)
    index.upsert([item("a", 1, colour="red", size="L"), item("b", 1, colour="red", size="M"), item("t00", size="L")])
    rows = {name: int(index.rows_of([name])[0]) for name in ("a", "b", "t00")}
    assert index.with_attributes({"colour": "red"}).tolist() == sorted([rows["a"], rows["b"]])
    assert index.with_attributes({"colour": "red", "size": "L"}).tolist() == [rows["a"]]
    assert index.with_attributes({"size": "L"}).tolist() == sorted([rows["a"], rows["t00"]])
    assert index.with_attributes({"colour": "green"}).tolist() == []
    assert index.with_attributes({"colour": "red", "size": "XL"}).tolist() == []
    assert index.with_attributes({"colou": "rred"}).tolist() == []


def test_events_name_no_item_an_unknown_one_or_one_of_the_index() -> None:
    index = small_index(MODEL)
    keys = hash_strings(pa.array(["t02", "nobody", "t02"]))
    rows = item_rows(index, keys, np.array([True, True, False]))
    assert rows.tolist() == [FIRST_ITEM + 2, UNKNOWN_ITEM, NO_ITEM]


changes = st.lists(
    st.tuples(
        st.sampled_from(["t00", "t01", "x", "y", "z"]),
        st.sampled_from(["delete", "reset", "upsert", "upsert"]),
        st.one_of(st.none(), st.integers(1, 4)),
        st.booleans(),
        st.dictionaries(st.sampled_from(["p", "q"]), st.sampled_from(["1", "2"])),
    ),
    max_size=12,
)


@given(changes=changes)
@settings(max_examples=50, deadline=None)
def test_after_any_changes_the_index_is_what_a_dict_says(changes: list) -> None:
    index = small_index(MODEL)
    held: dict[str, tuple[int | None, bool, dict[str, str]]] = {name: (None, True, {}) for name in TRAINED}
    for name, what, content, available, attributes in changes:
        if what == "upsert":
            index.upsert([item(name, content, available=available, **attributes)])
            held[name] = content, available, attributes
        elif what == "delete":
            index.delete(name)
            if name in held:
                held[name] = None, False, {}
        else:
            index.reset()
            held = {name: (None, True, {}) for name in TRAINED}
    wanted = {n for n, (content, available, _) in held.items() if available and (content or n in TRAINED)}
    assert rankable(index) == wanted
    for name in wanted:
        assert_scored(index, name, held[name][0])
    for pair in (("p", "1"), ("q", "2")):
        having = {name for name, (_, _, attributes) in held.items() if attributes.get(pair[0]) == pair[1]}
        assert set(index.ids(index.with_attributes(dict([pair])))) == having
