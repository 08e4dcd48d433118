"""The durable store against the in-memory one, over commits, erasures, compactions, failures and restarts."""

import itertools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from rocks_stores import PATIENCE, opened
from store_rows import Row, erasure, event_rows, message_keys, ordinals, user_key
from test_memory_store_model import HASHES, ITEMS, ROWS, USERS

from nextact_server.storage.memory import MemoryStore
from nextact_server.storage.rocks_database import Batch, Database
from nextact_server.storage.seam import NO_TIME, CommitGroup, HistoryPage, ItemRecord, Store, StoreError


class Disk:
    """Writes as it is told: well, not at all, or without saying so."""

    def __init__(self) -> None:
        self.fault = ""

    def write(self, database: Database, batch: Batch, sync: bool) -> None:
        fault, self.fault = self.fault, ""
        if fault == "before":
            raise StoreError("no space left, says the test")
        database.write(batch, sync=sync)
        if fault == "after":
            raise StoreError("fsync failed, says the test")


class AgainstMemory(RuleBasedStateMachine):
    """Vectors of content may outlive the last reference until the next compaction, and no longer."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = Disk()
        self.path = Path(tempfile.mkdtemp())
        self.store = opened(self.path, self.disk.write)
        self.model = MemoryStore()
        self.sequence, self.messages = itertools.count(), itertools.count()
        self.rows: list[Row] = []
        self.items: dict[str, ItemRecord] = {}
        self.vectors: dict[bytes, np.ndarray] = {}
        self.seen: dict[int, tuple[list[Any], int]] = {user: ([], -1) for user in USERS}

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.path)

    def commit(self, *, fault: str = "", **parts: Any) -> None:
        group = CommitGroup(next(self.sequence), **parts)
        self.disk.fault = fault
        outcome = self.store.commit(group)
        if fault:
            behind = self.store.commit(CommitGroup(next(self.sequence)))
            assert isinstance(outcome.exception(PATIENCE), StoreError)
            assert isinstance(behind.exception(PATIENCE), StoreError)
            self.store.reopen()
        else:
            outcome.result(PATIENCE)
        if fault != "before":
            self.model.commit(group).result(timeout=0)
            for content_hash, vector in self.offered(group).items():
                self.vectors[content_hash] = vector

    @staticmethod
    def offered(group: CommitGroup) -> dict[bytes, np.ndarray]:
        from_items = {item.content_hash: item.vector for item in group.items if item.vector is not None}
        return {**from_items, **group.content}  # type: ignore[dict-item]

    @rule(rows=ROWS, bring_content=st.booleans(), fault=st.sampled_from(["", "", "", "", "before", "after"]))
    def record(self, rows: list[Any], bring_content: bool, fault: str) -> None:
        made = []
        for user, item, (status, applied), content in rows:
            number = next(self.messages)
            made.append(Row(user, f"m{number}", item, number, status, applied, content, number, text=f"t{number}"))
        content = {row.content: np.full(3, row.content[0], np.float32) for row in made if any(row.content)}
        self.rows += made
        self.commit(events=event_rows(made), content=content if bring_content else {}, fault=fault)

    @rule(user=st.sampled_from(USERS), suppress=st.booleans(), fault=st.sampled_from(["", "", "", "before", "after"]))
    def erase(self, user: int, suppress: bool, fault: str) -> None:
        self.commit(erased=(erasure(user, suppress),), fault=fault)
        if fault != "before":
            self.seen[user] = ([], -1)

    @rule(
        steps=st.lists(st.sampled_from(USERS) | st.lists(st.sampled_from(USERS), min_size=1, max_size=4), max_size=12)
    )
    def burst(self, steps: list[int | list[int]]) -> None:
        """Many groups underway at once: erasures, and events of users with ids that were used before or are new."""
        groups, recent = [], self.rows[-6:]
        gone = {row for row in recent if not self.model.message_status(message_keys([(row.user, row.message)]))[0]}
        for step in steps:
            if isinstance(step, int):
                groups.append(CommitGroup(next(self.sequence), erased=(erasure(step),)))
                gone |= {row for row in recent if row.user == step}
                self.seen[step] = ([], -1)
                continue
            made = [Row(user, f"m{next(self.messages)}", "a", 7, text="burst") for user in step]
            again = [row for row in recent if row in gone and row.user == step[0]]
            gone -= set(again)
            self.rows += made
            recent += made
            groups.append(CommitGroup(next(self.sequence), event_rows(made + again)))
        futures = [self.store.commit(group) for group in groups]
        assert [future.exception(PATIENCE) for future in futures] == [None] * len(groups)
        for group in groups:
            self.model.commit(group).result(timeout=0)

    @rule(item_id=st.sampled_from(ITEMS), content=st.none() | st.sampled_from(HASHES[1:]), vector=st.booleans())
    def upsert(self, item_id: str, content: bytes | None, vector: bool) -> None:
        values = np.full(3, -content[0], np.float32) if content is not None and vector else None
        record = ItemRecord(item_id, "text", b"png", {"colour": "ç"}, False, content_hash=content, vector=values)
        self.commit(items=(record,))

    @rule(item_id=st.sampled_from(ITEMS))
    def delete(self, item_id: str) -> None:
        self.commit(deleted_items=(item_id,))

    @rule(users=st.sets(st.sampled_from(USERS), min_size=1), behind=st.integers(-1, 3))
    def save_states(self, users: set[int], behind: int) -> None:
        seen = self.model.users(ordinals(*users)).events_seen - behind
        values = {"h": seen.astype(np.float32)[:, None] * np.ones((1, 2), np.float32), "age": seen.astype(np.float32)}
        kept = [store.save_states(ordinals(*users), seen, seen * 2, values) for store in (self.store, self.model)]
        assert kept[0].tolist() == kept[1].tolist() == [behind >= 0] * len(users)

    @rule()
    def compact(self) -> None:
        assert self.store.compact(PATIENCE)
        for content_hash in HASHES:
            if self.model.content_vector(content_hash) is None and not self.is_referred(content_hash):
                self.vectors.pop(content_hash, None)
                assert self.store.content_vector(content_hash) is None
        assert self.store.uncompacted_events == 0

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = opened(self.path, self.disk.write)
        self.sequence = itertools.count(next(self.sequence))
        self.seen = {user: ([], -1) for user in USERS}

    def is_referred(self, content_hash: bytes) -> bool:
        by_items = any(item.content_hash == content_hash for item in self.model.all_items())
        return by_items or any(
            content_hash in [one.tobytes() for one in self.model.history(user, None, 10**6).content_hash]
            for user in USERS
        )

    # ----------------------------------------------------------------------------------------------------------------

    @invariant()
    def users_are_the_same(self) -> None:
        found, wanted = (store.users(ordinals(*USERS, 900)) for store in (self.store, self.model))
        assert found.events_seen.tolist() == wanted.events_seen.tolist()
        assert found.has_history.tolist() == wanted.has_history.tolist()
        assert found.last_time_us.tolist() == wanted.last_time_us.tolist()
        assert found.last_time_us[-1] == NO_TIME
        keys = np.concatenate([user_key(user) for user in USERS])
        assert self.store.suppressed(keys).tolist() == self.model.suppressed(keys).tolist()

    @invariant()
    def histories_are_the_same_page_by_page(self) -> None:
        for user in USERS:
            assert pages(self.store, user) == pages(self.model, user)
            replays = [self.store.replay(user, 2), self.model.replay(user, 2)]
            assert [replay.effective_time_us.tolist() for replay in replays[:1]] == [
                replays[1].effective_time_us.tolist()
            ]
            assert replays[0].item_key.tolist() == replays[1].item_key.tolist()
            assert replays[0].content_hash.tolist() == replays[1].content_hash.tolist()

    @invariant()
    def seen_items_add_up_piece_by_piece(self) -> None:
        for user in USERS:
            known, position = self.seen[user]
            keys, position = self.store.seen_items(user, position)
            self.seen[user] = (known + [tuple(key) for key in keys.tolist()], position)
            assert sorted(self.seen[user][0]) == sorted(map(tuple, self.model.seen_items(user)[0].tolist()))

    @invariant()
    def messages_are_the_same(self) -> None:
        keys = message_keys([(row.user, row.message) for row in self.rows])
        assert self.store.message_status(keys).tolist() == self.model.message_status(keys).tolist()

    @invariant()
    def content_is_kept_at_least_while_something_refers_to_it(self) -> None:
        for content_hash in HASHES:
            kept = self.store.content_vector(content_hash)
            wanted = self.model.content_vector(content_hash)
            if wanted is not None:
                assert kept is not None
                assert np.array_equal(kept, wanted)
            elif kept is not None:
                assert np.array_equal(kept, self.vectors[content_hash])

    @invariant()
    def catalogue_and_states_are_the_same(self) -> None:
        for after, limit in (("", 10), ("a", 1), ("b", 5)):
            assert told(self.store.items(after, limit)) == told(self.model.items(after, limit))
        assert told(self.store.all_items()) == told(self.model.items("", 10))
        for item_id in ITEMS:
            assert told([self.store.item(item_id)]) == told([self.model.item(item_id)])
        found, wanted = (store.load_states(ordinals(*USERS)) for store in (self.store, self.model))
        assert found.has.tolist() == wanted.has.tolist()
        assert found.events_seen.tolist() == wanted.events_seen.tolist()
        assert found.last_time_us.tolist() == wanted.last_time_us.tolist()
        for name in wanted.states:
            assert found.states[name].tolist() == wanted.states[name].tolist()


def pages(store: Store, user: int) -> list[Any]:
    rows: list[Any] = []
    before = None
    while True:
        page: HistoryPage = store.history(user, before, 3)
        assert len(page) <= 3
        columns = [page.status, page.applied, page.event_time_us, page.received_us, page.content_hash]
        rows += zip(page.columns.to_pylist(), *(column.tolist() for column in columns), strict=True)
        before = page.next_before
        if before is None:
            return rows


def told(items: Any) -> list[Any]:
    return [
        item
        and (item.item_id, item.text, item.image, dict(item.attributes), item.available, item.content_hash,
             None if item.vector is None else item.vector.tolist())
        for item in items
    ]  # fmt: skip


AgainstMemory.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestAgainstMemory = AgainstMemory.TestCase
