"""Top-k against a plain sort: by score, then by item id, and never an item that is out."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_model import TRAINED, small_index, small_model

from nextact_server.sequence.config import FIRST_ITEM
from nextact_server.sequence.index import IndexItem, ItemIndex
from nextact_server.sequence.ranking import NO_ROW, top_items


def shuffled_index() -> ItemIndex:
    """Item ids whose order is not that of their rows."""
    index = small_index(small_model())
    names = [f"i{(number * 7) % 20:02}" for number in range(20)]
    index.upsert([IndexItem(name, None, {}, True) for name in names])
    return index


INDEX = shuffled_index()
scores = st.one_of(st.just(-np.inf), st.sampled_from([0.0, -0.0, 1.0, -1.5]), st.floats(-9, 9, width=32))


def plain_sort(row: np.ndarray, rows: np.ndarray, k: int) -> list[tuple[str, float]]:
    """The first k by score descending, then id ascending."""
    found = [(name, float(score)) for name, score in zip(INDEX.ids(rows), row, strict=True) if np.isfinite(score)]
    return sorted(found, key=lambda pair: (-pair[1], pair[0]))[:k]


def ranked(got: tuple[np.ndarray, np.ndarray], user: int) -> list[tuple[str, float]]:
    rows, values = got[0][user], got[1][user]
    there = rows != NO_ROW
    assert not there[1:][~there[:-1]].any(), "what is there comes first"
    assert np.isneginf(values[~there]).all()
    assert np.isfinite(values[there]).all()
    return list(zip(INDEX.ids(rows[there]), values[there].tolist(), strict=True))


@given(data=st.data(), users=st.integers(1, 4), k=st.integers(1, 40))
@settings(max_examples=150, deadline=None)
def test_the_whole_index_is_ranked_as_a_plain_sort_does(data: st.DataObject, users: int, k: int) -> None:
    matrix = np.array(
        data.draw(st.lists(scores, min_size=users * INDEX.size, max_size=users * INDEX.size)), np.float32
    ).reshape(users, INDEX.size)
    matrix[:, :FIRST_ITEM] = -np.inf
    got = top_items(INDEX, torch.from_numpy(matrix), None, k)
    assert got[0].shape == got[1].shape == (users, k)
    for user in range(users):
        assert ranked(got, user) == plain_sort(matrix[user], np.arange(INDEX.size), k)


@given(data=st.data(), k=st.integers(1, 20))
@settings(max_examples=100, deadline=None)
def test_candidates_are_ranked_as_a_plain_sort_does(data: st.DataObject, k: int) -> None:
    rows = np.array(data.draw(st.lists(st.integers(FIRST_ITEM, INDEX.size - 1), unique=True, max_size=15)), np.int64)
    row = np.array(data.draw(st.lists(scores, min_size=len(rows), max_size=len(rows))), np.float32)
    got = top_items(INDEX, torch.from_numpy(row)[None], rows, k)
    assert ranked(got, 0) == plain_sort(row, rows, k)


def test_scores_all_equal_are_ordered_by_id_whatever_the_rows() -> None:
    matrix = torch.zeros(1, INDEX.size)
    matrix[:, :FIRST_ITEM] = -torch.inf
    got = ranked(top_items(INDEX, matrix, None, 5), 0)
    assert [name for name, _ in got] == sorted([*TRAINED, *(f"i{number:02}" for number in range(20))])[:5]


def test_nothing_to_rank_gives_an_empty_list_not_an_error() -> None:
    got = top_items(INDEX, torch.full((2, INDEX.size), -torch.inf), None, 3)
    assert (got[0] == NO_ROW).all()
    got = top_items(INDEX, torch.zeros(1, 0), np.zeros(0, np.int64), 3)
    assert got[0].tolist() == [[NO_ROW] * 3]


def test_the_scores_given_are_not_written_into() -> None:
    matrix = torch.zeros(2, INDEX.size)
    top_items(INDEX, matrix, None, 4)
    assert not matrix.any()
