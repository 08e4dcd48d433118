"""The in-memory store against lists and dicts that do the same in the plainest way."""

import itertools
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from store_rows import Row, erasure, event_rows, item_key, message_keys, ordinals, user_key

from nextact_server.storage.history import History
from nextact_server.storage.memory import MemoryStore
from nextact_server.storage.seam import ACCEPTED, APPLIED_BIT, LATE, NO_TIME, CommitGroup, ItemRecord

USERS = range(4)
HASHES = [bytes([n]) * 16 for n in range(4)]  # the first says: no content
ITEMS = ("a", "b", "ç")
OUTCOMES = st.sampled_from([(ACCEPTED, True), (LATE, True), (LATE, False)])
ROWS = st.lists(
    st.tuples(st.sampled_from(USERS), st.none() | st.sampled_from(ITEMS), OUTCOMES, st.sampled_from(HASHES)),
    min_size=1,
    max_size=12,
)


class AgainstPlainPython(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore()
        self.store._history = History(chunk_rows=8)
        self.sequence = itertools.count()
        self.messages = itertools.count()
        self.history: dict[int, list[Row]] = {user: [] for user in USERS}
        self.erased: list[Row] = []
        self.suppressed: set[int] = set()
        self.items: dict[str, ItemRecord] = {}
        self.vectors: dict[bytes, np.ndarray] = {}
        self.states: dict[int, tuple[int, float]] = {}
        self.seen: dict[int, tuple[list[tuple[int, int]], int]] = {user: ([], -1) for user in USERS}

    def commit(self, **parts: Any) -> None:
        self.store.commit(CommitGroup(next(self.sequence), **parts)).result(timeout=0)
        referred = {row.content for rows in self.history.values() for row in rows}
        referred |= {item.content_hash for item in self.items.values()}
        offered = {**self.vectors, **parts.get("content", {})}
        offered |= {item.content_hash: item.vector for item in parts.get("items", ()) if item.vector is not None}
        self.vectors = {key: vector for key, vector in offered.items() if key in referred and any(key)}

    @rule(rows=ROWS, bring_content=st.booleans())
    def record(self, rows: list[tuple[int, str | None, tuple[int, bool], bytes]], bring_content: bool) -> None:
        made = []
        for user, item, (status, applied), content in rows:
            number = next(self.messages)
            made.append(Row(user, f"m{number}", item, number, status, applied, content, number, text=f"t{number}"))
            self.history[user].append(made[-1])
        content = {row.content: np.full(3, row.content[0], np.float32) for row in made if any(row.content)}
        self.commit(events=event_rows(made), content=content if bring_content else {})

    @rule(user=st.sampled_from(USERS), suppress=st.booleans())
    def erase(self, user: int, suppress: bool) -> None:
        self.erased += self.history[user]
        self.history[user] = []
        self.states.pop(user, None)
        self.seen[user] = ([], -1)
        if suppress:
            self.suppressed.add(user)
        self.commit(erased=(erasure(user, suppress),))

    @rule(item_id=st.sampled_from(ITEMS), content=st.none() | st.sampled_from(HASHES[1:]), vector=st.booleans())
    def upsert(self, item_id: str, content: bytes | None, vector: bool) -> None:
        values = np.full(3, -content[0], np.float32) if content is not None and vector else None
        self.items[item_id] = ItemRecord(item_id, text="text", content_hash=content, vector=values)
        self.commit(items=(self.items[item_id],))

    @rule(item_id=st.sampled_from(ITEMS))
    def delete(self, item_id: str) -> None:
        self.items.pop(item_id, None)
        self.commit(deleted_items=(item_id,))

    @rule(users=st.sets(st.sampled_from(USERS), min_size=1), behind=st.integers(-1, 3))
    def save_states(self, users: set[int], behind: int) -> None:
        ahead_of = [self.events_seen(user) - behind for user in users]
        values = np.array(ahead_of, np.float32)[:, None] * np.ones((1, 2), np.float32)
        seen = np.array(ahead_of)
        kept = self.store.save_states(ordinals(*users), seen, seen * 2, {"h": values})
        assert kept.tolist() == [behind >= 0] * len(users)
        if behind >= 0:
            self.states.update({user: (events, float(events)) for user, events in zip(users, ahead_of, strict=True)})

    def events_seen(self, user: int) -> int:
        return sum(row.applied for row in self.history[user])

    @invariant()
    def users_are_as_in_the_model(self) -> None:
        columns = self.store.users(ordinals(*USERS, 900))
        assert columns.events_seen.tolist() == [*map(self.events_seen, USERS), 0]
        assert columns.has_history.tolist() == [*(bool(self.history[user]) for user in USERS), False]
        newest = [max((row.at_us for row in self.history[user]), default=NO_TIME) for user in USERS]
        assert columns.last_time_us.tolist() == [*newest, NO_TIME]
        keys = np.concatenate([user_key(user) for user in USERS])
        assert self.store.suppressed(keys).tolist() == [user in self.suppressed for user in USERS]

    @invariant()
    def history_is_as_in_the_model(self) -> None:
        for user in USERS:
            pages, before = [], None
            while True:
                page = self.store.history(user, before, 3)
                assert len(page) <= 3
                pages += zip(page.columns["message_id"].to_pylist(), page.columns["text"].to_pylist(), page.status,
                             page.applied, page.event_time_us, strict=True)  # fmt: skip
                before = page.next_before
                if before is None:
                    break
            expected = [(row.message, row.text, row.status, row.applied, row.at_us) for row in self.history[user]]
            assert pages == expected[::-1]

    @invariant()
    def replay_gives_the_applied_rows_after_any_count(self) -> None:
        for user in USERS:
            applied = [row for row in self.history[user] if row.applied]
            for after in {0, len(applied) // 2, len(applied), len(applied) + 1}:
                replay = self.store.replay(user, after)
                assert replay.effective_time_us.tolist() == [row.at_us for row in applied[after:]]
                assert replay.content_hash.tolist() == [list(row.content) for row in applied[after:]]
                assert [tuple(key) for key in replay.item_key.tolist()] == [
                    item_key(row.item) for row in applied[after:]
                ]

    @invariant()
    def seen_items_add_up_piece_by_piece(self) -> None:
        for user in USERS:
            known, position = self.seen[user]
            keys, position = self.store.seen_items(user, position)
            known = known + [tuple(key) for key in keys.tolist()]
            self.seen[user] = (known, position)
            assert sorted(known) == sorted(item_key(row.item) for row in self.history[user] if row.item is not None)

    @invariant()
    def message_ids_are_those_of_the_rows_that_are_there(self) -> None:
        rows = [row for rows in self.history.values() for row in rows]
        for chosen, remembered in ((rows, True), (self.erased, False)):
            status = self.store.message_status(message_keys([(row.user, row.message) for row in chosen]))
            expected = [row.status | (APPLIED_BIT if row.applied else 0) if remembered else 0 for row in chosen]
            assert status.tolist() == expected

    @invariant()
    def content_is_kept_while_something_refers_to_it(self) -> None:
        for content_hash in HASHES:
            kept = self.store.content_vector(content_hash)
            wanted = self.vectors.get(content_hash)
            assert (kept is None) == (wanted is None)
            assert wanted is None or np.array_equal(kept, wanted)

    @invariant()
    def catalogue_and_states_are_as_in_the_model(self) -> None:
        ordered = [self.items[item_id] for item_id in sorted(self.items, key=str.encode)]
        assert list(self.store.items("", 10)) == ordered
        assert list(self.store.items("a", 1)) == [item for item in ordered if item.item_id > "a"][:1]
        assert sorted(item.item_id for item in self.store.all_items()) == sorted(self.items)
        assert [self.store.item(item_id) for item_id in ITEMS] == [self.items.get(item_id) for item_id in ITEMS]
        loaded = self.store.load_states(ordinals(*USERS))
        assert loaded.has.tolist() == [user in self.states for user in USERS]
        for user, (events_seen, value) in self.states.items():
            assert loaded.events_seen[user] == events_seen
            assert loaded.states["h"][user].tolist() == [value, value]


AgainstPlainPython.TestCase.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
TestAgainstPlainPython = AgainstPlainPython.TestCase
