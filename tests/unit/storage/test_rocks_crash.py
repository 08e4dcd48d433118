"""kill -9 at any moment: what was acknowledged is there, whole and once; of what was not, all or nothing."""

import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
import rocks_child
from rocks_child import USERS, rows_of
from rocks_stores import PATIENCE, opened
from store_rows import message_keys, ordinals

from nextact_server.storage.rocks import RocksStore


def run_and_kill(data_dir: Path, first: int, after_s: float) -> int:
    """The last group that was acknowledged; `first - 1` where none was."""
    command = [sys.executable, rocks_child.__file__, str(data_dir), str(first)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "READY\n"
    killer = threading.Timer(after_s, child.send_signal, [signal.SIGKILL])
    killer.start()
    acknowledged = [int(line.split()[1]) for line in child.stdout if line.endswith("\n")]
    assert child.wait(PATIENCE) == -signal.SIGKILL
    assert acknowledged == list(range(first, first + len(acknowledged)))
    return first + len(acknowledged) - 1


def found_in(store: RocksStore, up_to: int) -> list[int]:
    """How many events of each group are remembered."""
    rows = [rows_of(number) for number in range(up_to)]
    keys = message_keys([(row.user, row.message) for group in rows for row in group])
    known = iter((store.message_status(keys) != 0).tolist())
    return [sum(next(known) for _ in group) for group in rows]


@pytest.mark.timeout(300)
def test_every_acknowledged_group_is_there_whole_and_once_after_each_of_five_kills(tmp_path: Path) -> None:
    moments = random.Random(5)
    next_group, durable = 0, []
    for _ in range(5):
        last = run_and_kill(tmp_path, next_group, moments.uniform(0.05, 0.8))
        acknowledged = range(next_group, last + 1)
        next_group = last + 100  # those that were underway may be there or not: never use their names again
        store = opened(tmp_path)
        found = found_in(store, next_group)
        durable += acknowledged
        for number in durable:
            assert found[number] == len(rows_of(number)), f"group {number} was acknowledged"
        there = [number for number, count in enumerate(found) if count]
        assert all(found[number] == len(rows_of(number)) for number in there)
        expected = Counter(row.user for number in there for row in rows_of(number))
        assert store.users(ordinals(*range(USERS))).events_seen.tolist() == [expected[user] for user in range(USERS)]
        for user in range(USERS):
            messages = store.history(user, None, 10**6).columns["message_id"].to_pylist()
            assert len(messages) == len(set(messages)) == expected[user]
            assert messages == [
                row.message for number in there for row in rows_of(number) if row.user == user
            ][::-1]  # fmt: skip
            assert len(store.replay(user, 0)) == expected[user]
        store.close()
    assert len(durable) > 100
