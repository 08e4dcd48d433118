"""The durable store keeps the promises of the in-memory one: the same tests, run against it.

Left out are those that look into the memory of the other store; for bytes in files see test_rocks_erasure.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import test_memory_store as promises
from rocks_stores import committed, opened

from nextact_server.storage.rocks import RocksStore

OF_MEMORY = {
    "test_nothing_of_an_erased_user_is_left_in_memory_and_the_suppression_list_holds_a_key_only",
    "test_erasure_gives_memory_back",
    "test_a_bad_group_changes_nothing_and_blocks_what_comes_behind_until_reopened",
}
KEPT = [name for name in vars(promises) if name.startswith("test_") and name not in OF_MEMORY]


@pytest.fixture(autouse=True)
def durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    stores: list[RocksStore] = []

    def make() -> RocksStore:
        stores.append(opened(tmp_path / str(len(stores))))
        return stores[-1]

    monkeypatch.setattr(promises, "MemoryStore", make)
    monkeypatch.setattr(promises, "committed", committed)
    yield
    for store in stores:
        store.close()


@pytest.mark.parametrize("name", KEPT)
def test_the_promise_is_kept(name: str) -> None:
    vars(promises)[name]()


@pytest.mark.parametrize("reason", promises.bad_groups())
def test_a_bad_group_changes_nothing_and_blocks_what_comes_behind_until_reopened(reason: str) -> None:
    check: Any = promises.test_a_bad_group_changes_nothing_and_blocks_what_comes_behind_until_reopened
    check(reason)
