import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from nextact_server.training.bootstrap import bootstrap
from nextact_server.training.metrics import UNRANKED, item_metrics, target_ranks


def test_a_rank_counts_who_is_better_and_ties_are_against_the_target() -> None:
    scores = np.array([[3, 2, 1], [1, 1, 1], [0, 5, 5]], dtype=np.float32)
    assert target_ranks(scores, np.array([1, 0, 1])).tolist() == [1, 2, 1]


def test_a_removed_target_is_never_a_hit() -> None:
    ranks = target_ranks(np.array([[-np.inf, 1.0]], dtype=np.float32), np.array([0]))
    assert ranks.tolist() == [UNRANKED]
    assert all(value[0] == 0 for value in item_metrics(ranks).values())


def test_the_metrics_follow_their_definitions() -> None:
    figures = item_metrics(np.array([0, 4, 9, 10, 20]))
    assert figures["HR@1"].tolist() == [1, 0, 0, 0, 0]
    assert figures["HR@10"].tolist() == [1, 1, 1, 0, 0]
    assert figures["HR@20"].tolist() == [1, 1, 1, 1, 0]
    assert figures["NDCG@10"] == pytest.approx([1, 1 / np.log2(6), 1 / np.log2(11), 0, 0])
    assert figures["MRR"] == pytest.approx([1, 1 / 5, 1 / 10, 1 / 11, 1 / 21])


@given(arrays.arrays(np.float32, (4, 9), elements=st.integers(0, 6).map(float)))
def test_a_rank_is_within_the_catalogue(scores: np.ndarray) -> None:
    ranks = target_ranks(scores, np.array([0, 3, 5, 8]))
    assert ((ranks >= 0) & (ranks < 9)).all()


def test_an_interval_is_about_users_not_events() -> None:
    values = np.repeat([0.0, 1.0], 500)
    two_users, many_users = np.repeat([0, 1], 500), np.arange(1000)
    narrow = bootstrap({"x": values}, many_users)["x"]
    wide = bootstrap({"x": values}, two_users)["x"]
    assert wide.value == narrow.value == 0.5
    assert (wide.low, wide.high) == (0.0, 1.0)
    assert narrow.high - narrow.low < 0.1


def test_no_difference_has_no_interval() -> None:
    same = bootstrap({"x": np.zeros(9)}, np.arange(9) % 3)["x"]
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


def test_the_mean_is_over_events() -> None:
    assert bootstrap({"x": np.array([1.0, 1.0, 1.0, 0.0])}, np.array([7, 7, 7, 9]))["x"].value == 0.75
