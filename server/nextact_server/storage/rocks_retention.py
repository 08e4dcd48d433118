"""The end of old events, and the walk through all users that it, and a new model's rebuild, begin with."""

from dataclasses import dataclass, replace

import numpy as np

from nextact_server.storage.rocks_database import HISTORY, MESSAGES, USERS, Database
from nextact_server.storage.rocks_facts import Facts, facts_from_bytes
from nextact_server.storage.rocks_keys import sliced
from nextact_server.storage.rocks_past import history_key
from nextact_server.storage.rocks_records import Records, concat, from_bytes
from nextact_server.storage.rocks_references import References


@dataclass(frozen=True, slots=True)
class KnownUser:
    """A user of whom the database has events."""

    user_id: str
    anonymous_id: str
    events_seen: int
    last_time_us: int


def known_users(database: Database, after: bytes, limit: int) -> tuple[list[KnownUser], bytes]:
    """Some users, in no telling order, and the cursor for the next ones, empty at the end. Begin with an empty one."""
    users: list[KnownUser] = []
    for key, raw in database.scan(USERS, start=after):
        if len(users) == limit:
            return users, key
        facts = facts_from_bytes(raw)
        assert facts is not None
        newest = database.get_last(HISTORY, key, history_key(key, facts.last_number))
        if newest is not None:
            records = from_bytes(newest)
            columns = records.take(np.array([len(records) - 1])).columns()
            user_id, anonymous_id = columns["user_id"][0].as_py() or "", columns["anonymous_id"][0].as_py() or ""
            users.append(KnownUser(user_id, anonymous_id, facts.events_seen, facts.last_time_us))
    return users, b""


def trim(database: Database, references: References, user: bytes, before_us: int, state_has_seen: int) -> int:
    """Drops a user's oldest events, those received before a time; returns how many.

    Only events that a kept state has seen go, so that the state can still be had; and never the newest one. Their
    message ids go with them, whatever the window says: what is not in the history could not be erased later.

    Args:
        database: no compaction may run meanwhile.
        references: those of the database.
        user: key on disk.
        before_us: in microseconds; by `received_us`.
        state_has_seen: `events_seen` of the oldest state that must stay reachable.
    """
    facts = facts_from_bytes(database.get(USERS, user))
    if facts is None:
        return 0
    rows = [(key, from_bytes(raw)) for key, raw in database.scan(HISTORY, user)]
    whole = concat([records for _, records in rows])
    count = _droppable(whole, facts, before_us, state_has_seen)
    if not count:
        return 0
    batch = database.batch()
    left = count
    for key, records in rows:
        if not left:
            break
        batch.delete(HISTORY, key)
        if left < len(records):
            kept = records.take(np.arange(left, len(records)))
            batch.put(HISTORY, history_key(user, int(kept.rows["number"][0])), kept.to_bytes())
        left -= min(left, len(records))
    gone, stays = whole.rows[:count], whole.rows[count:]
    remembered = int((gone["number"] >= facts.remembered_from).sum())
    for message in sliced(gone["message"]):
        batch.delete(MESSAGES, message)
    hashes = {one.tobytes() for one in gone["content_hash"]} - {one.tobytes() for one in stays["content_hash"]}
    references.release_user(batch, sorted(hashes - {bytes(16)}), user)
    first = int(stays["number"][0])
    trimmed = replace(
        facts,
        events=facts.events - count,
        first_number=first,
        remembered=facts.remembered - remembered,
        remembered_from=max(facts.remembered_from, first),
        dropped=facts.dropped + count,
    )
    batch.put(USERS, user, trimmed.to_bytes())
    database.write(batch)
    return count


def _droppable(whole: Records, facts: Facts, before_us: int, state_has_seen: int) -> int:
    """How many of a user's events, from the oldest, may go."""
    rows = whole.rows
    applied = rows["applied"].astype(np.int64)
    seen_with = facts.events_seen - applied.sum() + np.cumsum(applied)
    may_go = (rows["received_us"] < before_us) & (seen_with <= state_has_seen)
    may_go[-1] = False
    return int(np.argmin(may_go))
