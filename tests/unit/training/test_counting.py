from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tiny_world import START, content_store

from nextact_server.sequence.model import FIRST_ACTION, UNKNOWN_ACTION
from nextact_server.training.baselines import count, last_items
from nextact_server.training.datasets import Dataset, in_order
from nextact_server.training.scoring import CountScorer, first_judged, judge, seen_before
from nextact_server.training.sequences import ABSENT, Sequences, build_catalogue, encode, residue, users_in

HISTORIES = {"u": "abab c", "v": "abd"}
"""A letter is an item viewed; a space is a note without an item."""


@pytest.fixture
def sequences(tmp_path: Path) -> Sequences:
    return encoded(tmp_path, HISTORIES)


def encoded(folder: Path, histories: dict[str, str]) -> Sequences:
    rows = [
        (user, False, "note" if letter == " " else "view", None if letter == " " else letter, second, None)
        for user, letters in histories.items()
        for second, letter in enumerate(letters)
    ]
    frame = pl.DataFrame(rows, ("user_id", "anonymous", "action", "item_id", "second", "text"), orient="row")
    frame = frame.with_columns(
        event_time=pl.lit(START).dt.cast_time_unit("us") + pl.duration(seconds="second"),
        text=pl.col("text").cast(pl.String),
    )
    events = in_order(frame)
    store = content_store(folder)
    catalogue = build_catalogue(Dataset("x", events, {"e": "never met", "a": "first"}, "", ""), store)
    assert catalogue.ids == ("a", "b", "c", "d", "e")
    assert catalogue.has_content.tolist() == [True, False, False, False, True]
    return encode(events, catalogue, store, actions=("view",), item_targets=("view",))


def test_events_become_arrays(sequences: Sequences) -> None:
    assert sequences.users == ("u", "v")
    assert sequences.starts.tolist() == [0, 6, 9]
    assert sequences.item.tolist() == [0, 1, 0, 1, ABSENT, 2, 0, 1, 3]
    assert sequences.action.tolist() == [FIRST_ACTION] * 4 + [UNKNOWN_ACTION] + [FIRST_ACTION] * 4
    assert sequences.item_target.tolist() == [True] * 4 + [False] + [True] * 4
    assert sequences.time[:, 1].tolist() == [1, 0, 0, 0, 0, 0, 1, 0, 0], "only a user's first event has no gap"


def test_popularity_is_the_share_of_events(sequences: Sequences) -> None:
    assert count(sequences, 5).popularity() == pytest.approx(np.array([3, 3, 1, 1, 0]) / 8)


def test_markov_counts_what_followed_and_breaks_ties_by_popularity(sequences: Sequences) -> None:
    counts = count(sequences, 5)
    after_b = counts.markov(1)
    assert np.round(after_b).tolist() == [1, 0, 1, 1, 0], "b was followed by a, by c after a note, and by d"
    assert after_b[0] > after_b[2] == after_b[3]
    assert counts.markov(ABSENT) == pytest.approx(1e-6 * counts.popularity())
    assert np.round(counts.markov(3)).sum() == 0, "the end of one user is not followed by the start of the next"


def test_the_last_item_skips_events_that_are_no_target(sequences: Sequences) -> None:
    assert last_items(sequences, 0, 6).tolist() == [ABSENT, 0, 1, 0, 1, 1]


def test_the_last_part_of_each_user_is_judged(sequences: Sequences) -> None:
    assert first_judged(sequences, 0.5).tolist() == [3, 8]
    assert first_judged(sequences, 0.01).tolist() == [5, 8], "at least the last event"


def test_an_item_is_seen_after_its_first_event_only(sequences: Sequences) -> None:
    seen = seen_before(sequences, np.array([0, 0, 1]), np.array([1, 5, 6]), 5)
    assert seen.tolist() == [[True, False, False, False, False], [True, True, False, False, False], [False] * 5]


def test_seen_items_are_removed_and_a_seen_target_is_a_miss(sequences: Sequences) -> None:
    scorer = CountScorer(count(sequences, 5), markov=False)
    kept = judge(scorer, sequences, np.array([2, 8]), exclude_seen=False)
    removed = judge(scorer, sequences, np.array([2, 8]), exclude_seen=True)
    assert kept.rank.tolist() == [1, 1, 3, 3], "a and b are equally popular, c and d too"
    assert removed.rank[2:].tolist() == [1, 1]
    assert (removed.rank[:2] > 10**9).all()
    assert kept.item_user.tolist() == [0, 0, 0, 1]
    assert len(kept.action_hit) == 5


def test_the_last_action_is_repeated(sequences: Sequences) -> None:
    hits = judge(
        CountScorer(count(sequences, 5), markov=True), sequences, np.array([0, 6]), exclude_seen=True
    ).action_hit
    assert hits.tolist() == [False, True, True, True, False, False, False, True, True]


def test_users_are_parted_by_their_hash_alone() -> None:
    events = pl.DataFrame({"user_id": [str(number) for number in range(500)]})
    parts = [users_in(events, [part], 10) for part in range(10)]
    assert sorted(user for part in parts for user in part) == sorted(events["user_id"])
    assert residue("1", 10) == int("6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b", 16) % 10
