"""User keys and the directory that turns them into ordinals."""

import threading

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextact_server.events.identity import UserDirectory, user_keys

IDS = st.one_of(st.none(), st.sampled_from(["", "x", "y", "zebra"]))


@given(st.lists(st.tuples(IDS, IDS), min_size=1, max_size=20), st.sampled_from(["", "shop"]))
@settings(max_examples=100, deadline=None)
def test_a_key_is_that_of_tenant_kind_and_id(rows: list[tuple[str | None, str | None]], tenant: str) -> None:
    users, visitors = (pa.array([row[i] for row in rows], pa.string()) for i in (0, 1))
    keys, anonymous = user_keys(users, visitors, tenant)
    names = [("user", user) if user else ("anonymous", visitor or "") for user, visitor in rows]
    assert anonymous.tolist() == [kind == "anonymous" for kind, _ in names]
    seen: dict[bytes, tuple[str, str]] = {}
    for key, name in zip(keys, names, strict=True):
        assert seen.setdefault(key.tobytes(), name) == name
    assert len(seen) == len(set(names))


def test_one_id_under_another_tenant_or_kind_is_another_user() -> None:
    x = pa.array(["x"])
    keys = [user_keys(*columns, tenant)[0][0].tobytes() for columns in ((x, None), (None, x)) for tenant in ("", "t")]
    assert len(set(keys)) == 4


def test_a_missing_column_is_an_empty_one() -> None:
    users, empty = pa.array(["x", None, ""]), pa.array(["", "", ""])
    for left, right in zip(user_keys(users, None), user_keys(users, empty), strict=True):
        assert np.array_equal(left, right)
    for left, right in zip(user_keys(None, users), user_keys(empty, users), strict=True):
        assert np.array_equal(left, right)
    with pytest.raises(ValueError, match="user_id and anonymous_id"):
        user_keys(None, None)


def test_ordinals_are_dense_in_order_of_first_appearance_and_lead_back_to_the_key() -> None:
    directory = UserDirectory(1)
    keys, _ = user_keys(pa.array(["b", "a", "b", "c"]), None)
    assert directory.find(keys).tolist() == [-1] * 4
    assert directory.resolve(keys).tolist() == [0, 1, 0, 2]
    assert directory.find(keys).tolist() == [0, 1, 0, 2]
    assert len(directory) == 3
    assert np.array_equal(directory.keys(np.array([2, 0])), keys[[3, 0]])


def test_a_forgotten_user_comes_back_as_a_new_one_and_leaves_no_key() -> None:
    directory = UserDirectory()
    keys, _ = user_keys(pa.array(["a", "b"]), None)
    directory.resolve(keys)
    directory.forget(keys[:1])
    assert directory.find(keys).tolist() == [-1, 1]
    assert len(directory) == 1
    assert not directory.keys(np.array([0])).any()
    assert directory.resolve(keys).tolist() == [2, 1]
    assert directory.ordinals == 3


def test_threads_that_resolve_the_same_users_agree() -> None:
    directory = UserDirectory(1)
    keys, _ = user_keys(pa.array([f"u{i}" for i in range(3000)]), None)
    start = threading.Barrier(4)
    answers: list[np.ndarray] = []

    def resolve(order: np.ndarray) -> None:
        start.wait()
        ordinals = np.empty(len(order), np.int64)
        for rows in np.array_split(order, 60):
            ordinals[rows] = directory.resolve(keys[rows])
        answers.append(ordinals)

    orders = [np.random.default_rng(seed).permutation(len(keys)) for seed in range(4)]
    threads = [threading.Thread(target=resolve, args=(order,)) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(answers[0], other) for other in answers)
    assert sorted(answers[0].tolist()) == list(range(len(keys)))
