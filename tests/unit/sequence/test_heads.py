"""What the heads say of users: filters against brute force, scores against the model itself."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_model import ACTIONS, TRAINED, content_vector, small_index, small_model

from nextact_server.events.call import NO_FILTER, Filter, Want
from nextact_server.sequence.config import FIRST_ITEM, NO_ITEM, UNKNOWN_ITEM
from nextact_server.sequence.heads import (
    ItemRequest,
    Reading,
    action_scores,
    admitted,
    next_items,
    read,
    score_candidates,
    wants_query,
)
from nextact_server.sequence.index import IndexItem, ItemIndex

MODEL = small_model()
COLD = {
    f"c{number}": IndexItem(
        f"c{number}",
        content_vector(number) if number % 3 else None,
        {"colour": "red" if number % 2 else "blue", "size": "L"},
        number != 4,
    )
    for number in range(8)
}


def catalogued() -> ItemIndex:
    index = small_index(MODEL)
    index.upsert(list(COLD.values()))
    index.upsert([IndexItem("t05", None, {"colour": "red"}, True), IndexItem("t06", None, {}, False)])
    return index


INDEX = catalogued()
NAMES = [*TRAINED, *COLD]
ATTRIBUTES = {name: dict(COLD[name].attributes) if name in COLD else {} for name in NAMES} | {"t05": {"colour": "red"}}
RANKABLE = {
    name
    for name in NAMES
    if name != "t06" and (name in TRAINED or (COLD[name].available and COLD[name].content is not None))
}
named = st.lists(st.sampled_from([*NAMES, "nobody", ""]), max_size=8)
filters = st.builds(
    Filter,
    include=st.one_of(st.just(()), named.map(tuple)),
    exclude=named.map(tuple),
    attributes=st.sampled_from([{}, {}, {"colour": "red"}, {"colour": "red", "size": "L"}, {"colour": "no"}]),
)
seen_rows = st.one_of(
    st.none(), st.lists(st.integers(0, INDEX.size - 1), max_size=10).map(lambda rows: np.array(rows, np.int64))
)
requests = st.builds(ItemRequest, top_k=st.integers(1, 30), filter=filters, seen=seen_rows)


def brute_force(request: ItemRequest) -> set[str]:
    """Which items a request may be answered with, name by name."""
    wish = request.filter
    seen = set() if request.seen is None else set(INDEX.ids(request.seen))
    return {
        name
        for name in RANKABLE
        if (not wish.include or name in wish.include)
        and name not in wish.exclude
        and all(ATTRIBUTES[name].get(key) == value for key, value in wish.attributes.items())
        and name not in seen
    }


@given(asked=st.lists(requests, min_size=1, max_size=6), block=st.integers(1, 4))
@settings(max_examples=80, deadline=None)
def test_every_user_gets_the_best_of_what_their_own_filter_lets_through(asked: list[ItemRequest], block: int) -> None:
    query = torch.randn(len(asked), MODEL.config.item_dim)
    rows, scores = next_items(INDEX, Reading(query, None), asked, block)
    everything = INDEX.logits(query, None)
    assert rows.shape == scores.shape == (len(asked), max(request.top_k for request in asked))
    for at, request in enumerate(asked):
        score_of = {name: float(everything[at, int(INDEX.rows_of([name])[0])]) for name in brute_force(request)}
        got = [(name, score) for name, score in zip(INDEX.ids(rows[at]), scores[at], strict=True) if np.isfinite(score)]
        assert all(row == -1 for row, score in zip(rows[at], scores[at], strict=True) if not np.isfinite(score))
        wanted = sorted(score_of, key=lambda name: (-score_of[name], name))[: request.top_k]
        assert [name for name, _ in got] == wanted
        np.testing.assert_allclose([score for _, score in got], [score_of[name] for name in wanted], rtol=0, atol=1e-4)


@given(wish=filters, seen=seen_rows)
@settings(max_examples=80, deadline=None)
def test_a_filter_admits_each_item_once_and_never_a_reserved_row(wish: Filter, seen: np.ndarray | None) -> None:
    rows = admitted(INDEX, wish, seen)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert (rows >= FIRST_ITEM).all()
    assert set(INDEX.ids(rows)) & RANKABLE == brute_force(ItemRequest(1, wish, seen))


def test_a_filter_that_includes_only_unknown_items_admits_nothing() -> None:
    assert admitted(INDEX, Filter(include=("nobody",)), None).tolist() == []
    rows, scores = next_items(
        INDEX, Reading(torch.zeros(1, 8), None), [ItemRequest(3, Filter(include=("nobody",)), None)]
    )
    assert rows.tolist() == [[-1, -1, -1]]
    assert np.isneginf(scores).all()


def test_seen_items_do_not_leave_the_ranking_of_the_next_user() -> None:
    query = torch.zeros(2, 8)
    seen = INDEX.rows_of(list(TRAINED))
    rows, _ = next_items(
        INDEX, Reading(query, None), [ItemRequest(30, NO_FILTER, seen), ItemRequest(30, NO_FILTER, None)]
    )
    assert set(INDEX.ids(rows[0][rows[0] >= 0])) == RANKABLE - set(TRAINED)
    assert set(INDEX.ids(rows[1][rows[1] >= 0])) == RANKABLE


def test_reserved_rows_among_the_seen_do_no_harm() -> None:
    seen = np.array([0, UNKNOWN_ITEM, NO_ITEM], np.int64)
    rows, _ = next_items(INDEX, Reading(torch.zeros(1, 8), None), [ItemRequest(30, NO_FILTER, seen)])
    assert set(INDEX.ids(rows[0][rows[0] >= 0])) == RANKABLE


def test_candidates_that_cannot_be_ranked_are_left_out() -> None:
    candidates = INDEX.rows_of(["t06", "c3", "t01", "c4"])
    rows, scores = score_candidates(INDEX, Reading(torch.zeros(1, 8), None), candidates, None, 4)
    assert INDEX.ids(rows[np.isfinite(scores)]) == ["t01"]


def test_action_scores_are_a_distribution_over_the_known_actions() -> None:
    scores = action_scores(MODEL, torch.randn(50, MODEL.config.hidden_dim) * 30)
    assert scores.shape == (50, len(ACTIONS))
    assert (scores >= 0).all()
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=0, atol=1e-5)


def test_an_item_score_is_the_embedding_times_the_vector_plus_the_bias() -> None:
    hidden = torch.randn(3, MODEL.config.hidden_dim)
    query = read(MODEL, hidden, None).query
    assert query.shape == (3, MODEL.config.item_dim)
    rows, scores = next_items(INDEX, Reading(query, None), [ItemRequest(1, Filter(include=("c5",)), None)] * 3)
    has = torch.ones(1, dtype=torch.bool)
    content = torch.from_numpy(content_vector(5))[None]
    unknown = torch.tensor([UNKNOWN_ITEM])
    wanted = query @ MODEL.item_vectors(unknown, content, has)[0] + MODEL.item_bias(unknown, content, has)
    np.testing.assert_allclose(scores[:, 0], wanted.numpy(), rtol=0, atol=1e-5)
    assert INDEX.ids(rows[:, 0]) == ["c5"] * 3


@pytest.mark.parametrize(
    ("want", "needed"),
    [(Want.EMBEDDING, True), (Want.ITEMS, True), (Want.ACTIONS, False), (Want.NEXT, False), (Want.ALL, True)],
)
def test_the_embedding_is_computed_only_where_something_needs_it(want: Want, needed: bool) -> None:
    assert wants_query(want) is needed
