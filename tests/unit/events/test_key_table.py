"""The key table against a Python dict."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from nextact_server.events.key_table import KeyTable

# Few low bits: keys crowd into the same buckets and run over into the next ones, the zero key among them.
CROWDED = st.tuples(st.integers(0, 7), st.integers(0, 4))
SPREAD = st.tuples(st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 64) - 1))
KEYS = st.lists(st.one_of(CROWDED, SPREAD), max_size=40)


def as_keys(keys: list[tuple[int, int]]) -> np.ndarray:
    return np.array(keys, np.uint64).reshape(len(keys), 2)


def random_keys(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1 << 64, (n, 2), dtype=np.uint64)


class AgainstDict(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.table = KeyTable(1)
        self.model: dict[tuple[int, int], int] = {}
        self.ordinals = 0
        self.met: set[tuple[int, int]] = set()

    @rule(keys=KEYS)
    def find_or_insert(self, keys: list[tuple[int, int]]) -> None:
        before = set(self.model)
        for key in keys:
            if key not in self.model:
                self.model[key] = self.ordinals
                self.ordinals += 1
        values, new = self.table.find_or_insert(as_keys(keys))
        self.met.update(keys)
        assert values.tolist() == [self.model[key] for key in keys]
        assert new.tolist() == [key not in before for key in keys]

    @rule(keys=KEYS, start=st.integers(0, 1 << 62))
    def set_values(self, keys: list[tuple[int, int]], start: int) -> None:
        self.table.set(as_keys(keys), np.arange(start, start + len(keys)))
        self.met.update(keys)
        self.model.update(zip(keys, range(start, start + len(keys)), strict=True))

    @rule(keys=KEYS, data=st.data())
    def delete(self, keys: list[tuple[int, int]], data: st.DataObject) -> None:
        known = data.draw(st.lists(st.sampled_from(sorted(self.model)), max_size=30)) if self.model else []
        gone = keys + known
        assert self.table.delete(as_keys(gone)).tolist() == [key in self.model for key in gone]
        for key in gone:
            self.model.pop(key, None)

    @invariant()
    def holds_what_the_dict_holds(self) -> None:
        assert len(self.table) == len(self.model)
        met = sorted(self.met)
        assert self.table.find(as_keys(met)).tolist() == [self.model.get(key, -1) for key in met]


AgainstDict.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestAgainstDict = AgainstDict.TestCase


@given(st.lists(CROWDED, min_size=1, max_size=200))
@settings(max_examples=50, deadline=None)
def test_new_keys_get_dense_ordinals_in_order_of_first_appearance(keys: list[tuple[int, int]]) -> None:
    values, new = KeyTable().find_or_insert(as_keys(keys))
    order = list(dict.fromkeys(keys))
    assert values.tolist() == [order.index(key) for key in keys]
    assert new.all()


def test_a_deleted_key_that_comes_again_gets_an_ordinal_never_used_before() -> None:
    table, keys = KeyTable(), random_keys(3)
    table.find_or_insert(keys)
    table.delete(keys[1:2])
    assert table.find(keys).tolist() == [0, -1, 2]
    assert table.find_or_insert(keys)[0].tolist() == [0, 3, 2]


def test_growth_keeps_every_key_and_a_bounded_load() -> None:
    table, keys = KeyTable(), random_keys(200_000)
    for start in range(0, len(keys), 5000):
        table.find_or_insert(keys[start : start + 5000])
    assert np.array_equal(table.find(keys), np.arange(len(keys)))
    assert (table.find(random_keys(10_000, seed=1)) == -1).all()
    assert table.nbytes < 24.2 * len(keys) / 0.25


def test_no_single_insertion_pays_for_the_whole_table() -> None:
    table, keys = KeyTable(), random_keys(300_000)
    before = 1
    for start in range(0, len(keys), 500):
        table.find_or_insert(keys[start : start + 500])
        buckets = table._base + table._split
        assert buckets - before <= 700
        before = buckets


def test_keys_of_one_bucket_are_all_found() -> None:
    keys = np.stack([np.arange(500, dtype=np.uint64) << np.uint64(32), np.zeros(500, np.uint64)], axis=1)
    table = KeyTable()
    table.find_or_insert(keys)
    assert np.array_equal(table.find(keys), np.arange(500))


def test_churn_neither_grows_the_table_nor_leaves_keys_behind() -> None:
    table, keys = KeyTable(2000), random_keys(100_000)
    size = table.nbytes
    for start in range(0, len(keys) - 2000, 1000):
        table.set(keys[start : start + 2000], np.arange(2000))
        table.delete(keys[start : start + 1000])
    assert table.nbytes == size
    assert len(table) == 1000
    assert sum(map(len, table._spilled.values())) < 30
    assert table._marked.sum() == len(table._spilled)


def test_a_deleted_key_leaves_no_trace_in_memory() -> None:
    table, keys = KeyTable(), random_keys(100)
    table.find_or_insert(keys)
    table.delete(keys[:50])
    spilled = [lane for keys in table._spilled.values() for key in keys for lane in key]
    lanes = np.concatenate([table._table.ravel(), np.array(spilled, np.int64)]).view(np.uint64)
    assert not np.isin(keys[:50], lanes).any()
    assert np.isin(keys[50:], lanes).all()


@pytest.mark.parametrize("capacity", [1, 64, 1000])
def test_no_rows_are_fine(capacity: int) -> None:
    table, none = KeyTable(capacity), random_keys(0)
    assert table.find(none).shape == (0,)
    assert table.find_or_insert(none)[0].shape == (0,)
    assert table.delete(none).shape == (0,)
    table.set(none, np.zeros(0, np.int64))
    assert len(table) == 0
