from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_world import START, content_store

from nextact_server.sequence.config import FIRST_ACTION, UNKNOWN_ACTION
from nextact_server.training.baselines import FollowedScorer, PopularityScorer, followed, popularity
from nextact_server.training.datasets import Dataset, in_order
from nextact_server.training.history import last_items, seen_before
from nextact_server.training.judging import judge
from nextact_server.training.prepare import Judged
from nextact_server.training.rivals import LAST_ACTION, action_rivals
from nextact_server.training.sequences import ABSENT, Sequences, build_catalogue, encode, residue

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


def chain(sequences: Sequences) -> FollowedScorer:
    share = popularity(sequences, sequences.item_target, 5)
    return FollowedScorer(followed(sequences, sequences.item_target, 5), share)


def test_popularity_is_the_share_of_events(sequences: Sequences) -> None:
    share = popularity(sequences, sequences.item_target, 5)
    assert share == pytest.approx(np.array([3, 3, 1, 1, 0]) / 8)


def test_markov_counts_what_followed_and_breaks_ties_by_popularity(sequences: Sequences) -> None:
    scorer = chain(sequences)
    after_b = scorer(sequences, np.array([4]), None).scores
    assert after_b is not None
    assert np.round(after_b[0]).tolist() == [1, 0, 1, 1, 0], "b was followed by a, by c after a note, and by d"
    assert after_b[0, 0] > after_b[0, 2] == after_b[0, 3]
    first = scorer(sequences, np.array([6]), None).scores
    assert first is not None
    assert first[0] == pytest.approx(1e-6 * scorer.share), "a user's first event follows nothing"
    counted = followed(sequences, sequences.item_target, 5).toarray()
    assert counted[2].sum() == counted[3].sum() == 0, "the end of one user is not followed by the start of the next"


@given(reach=st.integers(1, 4), decay=st.sampled_from([1.0, 0.5]), backward=st.sampled_from([0.0, 0.5]))
@settings(max_examples=20, deadline=None)
def test_pairs_some_steps_apart_are_counted_as_one_by_one(reach: int, decay: float, backward: float) -> None:
    with TemporaryDirectory() as folder:
        events = encoded(Path(folder), HISTORIES)
    wanted = np.zeros((5, 5))
    for user in range(2):
        own = range(int(events.starts[user]), int(events.starts[user + 1]))
        items = [int(events.item[row]) for row in own if events.item_target[row]]
        for at, before in enumerate(items):
            for step, after in enumerate(items[at + 1 : at + 1 + reach]):
                wanted[before, after] += decay**step
                wanted[after, before] += backward * decay**step
    found = followed(events, events.item_target, 5, reach=reach, decay=decay, backward=backward)
    np.testing.assert_allclose(found.toarray(), wanted)


def test_the_last_items_skip_events_that_are_no_target(sequences: Sequences) -> None:
    last = last_items(sequences, np.arange(7), 2, sequences.item_target)
    assert last[:, 0].tolist() == [ABSENT, 0, 1, 0, 1, 1, ABSENT]
    assert last[:, 1].tolist() == [ABSENT, ABSENT, 0, 1, 0, 0, ABSENT]


def test_an_item_is_seen_after_its_first_event_only(sequences: Sequences) -> None:
    seen = seen_before(sequences, np.array([1, 5, 6]), 5)
    assert seen.tolist() == [[True, False, False, False, False], [True, True, False, False, False], [False] * 5]


@pytest.mark.parametrize("cells", [1, 12, 10**6])
def test_seen_items_are_removed_and_a_seen_target_is_a_miss(sequences: Sequences, cells: int) -> None:
    scorer = PopularityScorer(popularity(sequences, sequences.item_target, 5))
    judged = Judged(sequences, np.array([2, 8]))
    kept = judge(scorer, judged, exclude_seen=False, cells=cells)
    removed = judge(scorer, judged, exclude_seen=True, cells=cells)
    assert kept.rank.tolist() == [1, 1, 3, 3], "a and b are equally popular, c and d too"
    assert removed.rank[2:].tolist() == [1, 1]
    assert (removed.rank[:2] > 10**9).all()
    assert kept.item_user.tolist() == [0, 0, 0, 1]
    assert len(kept.action) == 0, "popularity says nothing of actions"


def test_the_last_action_is_repeated(sequences: Sequences) -> None:
    scorer = action_rivals(sequences, 1, thorough=False)[LAST_ACTION].scorer
    judged = judge(scorer, Judged(sequences, np.array([0, 6])), exclude_seen=False)
    assert len(judged.action) == 8, "an action that is not known is not judged"
    assert judged.action_hit.all()


def test_users_are_parted_by_their_hash_alone() -> None:
    parts = [residue(str(number), 10) for number in range(500)]
    assert set(parts) == set(range(10))
    assert residue("1", 10) == int("6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b", 16) % 10
