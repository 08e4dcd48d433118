import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextact_server.training.attributes import attribute_vectors
from nextact_server.training.sequence_files import attribute_table

DIM = 384

LISTS = st.dictionaries(st.text("abc", min_size=1, max_size=3), st.lists(st.text("xyz123", max_size=3), max_size=8))


@given(LISTS)
def test_every_described_item_has_a_vector_of_length_one(lists: dict[str, list[str]]) -> None:
    vectors = attribute_vectors(attribute_table(lists), sorted(lists), DIM)
    assert vectors.dtype == np.float32
    lengths = np.linalg.norm(vectors, axis=1)
    described = np.array([bool(lists[item]) for item in sorted(lists)], dtype=bool)
    assert lengths == pytest.approx(described.astype(float), abs=1e-5)


@given(LISTS, st.randoms(use_true_random=False))
def test_neither_order_nor_the_other_items_decide(lists: dict[str, list[str]], random: object) -> None:
    whole = dict(zip(sorted(lists), attribute_vectors(attribute_table(lists), sorted(lists), DIM), strict=True))
    for item, ids in lists.items():
        alone = attribute_vectors(attribute_table({item: ids[::-1]}), [item], DIM)
        assert alone[0] == pytest.approx(whole[item], abs=1e-6)


def test_the_vector_of_an_attribute_is_the_same_for_ever() -> None:
    vector = attribute_vectors(attribute_table({"a": ["4"]}), ["a"], DIM)[0]
    places = np.flatnonzero(vector)
    assert places.tolist() == [7, 37, 48, 111, 130, 235, 279]
    assert vector[places] == pytest.approx(np.array([-1, 1, -1, 2, 1, 1, -1]) / 10**0.5), "two hashes share a place"


def test_items_with_more_in_common_are_nearer() -> None:
    lists = {"a": ["1", "2", "3", "4"], "b": ["1", "2", "3", "5"], "c": ["1", "6", "7", "8"], "d": ["9"]}
    a, b, c, d = attribute_vectors(attribute_table(lists), list("abcd"), DIM)
    assert a @ b == pytest.approx(0.75, abs=0.15)
    assert a @ c == pytest.approx(0.25, abs=0.15)
    assert abs(a @ d) < 0.2


def test_different_attributes_are_told_apart_though_places_are_few() -> None:
    names = [str(number) for number in range(2000)]
    vectors = attribute_vectors(attribute_table({name: [name] for name in names}), names, DIM)
    likeness = np.abs(vectors @ vectors.T - np.eye(len(names)))
    assert likeness.max() < 0.8
    assert likeness.mean() < 0.03


def test_an_attribute_named_often_counts_more_but_not_as_often() -> None:
    lists = {"once": ["x", "y"], "often": ["x"] * 20 + ["y"], "pure": ["x"]}
    once, often, pure = attribute_vectors(attribute_table(lists), list(lists), DIM)
    assert once @ pure < often @ pure < 0.99


def test_items_that_are_not_asked_for_are_left_out() -> None:
    table = attribute_table({"a": ["1"], "b": ["2"]})
    assert attribute_vectors(table, ["b", "c"], DIM).any(axis=1).tolist() == [True, False]
    assert attribute_vectors(table, [], DIM).shape == (0, DIM)
    assert not attribute_vectors(table.clear(), ["a"], DIM).any()
