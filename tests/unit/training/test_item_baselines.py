from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from made_up import histories, sequences_of

from nextact_server.training.baselines import FollowedScorer, followed, popularity
from nextact_server.training.cooccurrence import GRID, cooccurrence, evened
from nextact_server.training.history import seen_before
from nextact_server.training.item_knn import NeighbourScorer, cut, item_knn, met_together, nearest
from nextact_server.training.judging import judge
from nextact_server.training.prepare import Judged
from nextact_server.training.scoring import Scorer
from nextact_server.training.sequences import ABSENT, Sequences
from nextact_server.training.tuning import best_point, last_left_out

ITEMS = 6


def walks(users: int, each: int, items: int, seed: int) -> Sequences:
    """Users who mostly walk a circle of items, three steps each way at most."""
    rng = np.random.default_rng(seed)
    steps = rng.integers(-1, 4, (users, each)).cumsum(axis=1) + rng.integers(0, items, (users, 1))
    return sequences_of((steps % items).tolist())


@given(histories(ITEMS))
@settings(deadline=None)
def test_the_last_items_are_asked_with_decay(told: list[list[int]]) -> None:
    sequences = sequences_of(told)
    pairs = followed(sequences, sequences.item_target, ITEMS, reach=2, decay=0.5, backward=0.5)
    share = popularity(sequences, sequences.item_target, ITEMS)
    found = FollowedScorer(pairs, share, last=3, decay=0.4)(sequences, np.arange(len(sequences.item)), None).scores
    assert found is not None
    row = 0
    for history in told:
        for at in range(len(history)):
            met = [item for item in history[:at] if item != ABSENT][::-1][:3]
            wanted = sum((0.4**age * pairs.toarray()[item] for age, item in enumerate(met)), 1e-6 * share)
            np.testing.assert_allclose(found[row], wanted)
            row += 1


def test_evening_lets_each_item_say_the_same() -> None:
    sequences = sequences_of([[0, 1, 0, 2, 0, 1], [3, 4]])
    pairs = followed(sequences, sequences.item_target, 5)
    assert evened(pairs, 0.0) is pairs
    total = evened(pairs, 1.0).toarray().sum(axis=1)
    assert total.tolist() == [1, 1, 1, 1, 0], "who was followed by nothing says nothing"
    half = evened(pairs, 0.5).toarray()
    assert half[0] == pytest.approx(pairs.toarray()[0] / np.sqrt(3))


@given(histories(ITEMS))
@settings(deadline=None)
def test_neighbours_are_those_of_the_cosine(told: list[list[int]]) -> None:
    sequences = sequences_of(told)
    together = met_together(sequences, sequences.item_target, ITEMS)
    met = np.zeros((len(told), ITEMS))
    for user, history in enumerate(told):
        met[user, [item for item in history if item != ABSENT]] = 1.0
    np.testing.assert_array_equal(together.toarray(), met.T @ met)
    users = met.sum(axis=0)
    cosine = met.T @ met / (np.sqrt(np.outer(users, users)) + 2.0)
    whole = nearest(together, 2.0)
    np.testing.assert_allclose(whole.toarray(), cosine)
    two = cut(whole, 2).toarray()
    for item in range(ITEMS):
        kept = np.sort(two[item][two[item] > 0])
        np.testing.assert_allclose(kept, np.sort(cosine[item][cosine[item] > 0])[-2:][-len(kept) or None :])
        assert len(kept) == min(2, int((cosine[item] > 0).sum()))


def test_neighbours_of_all_that_was_met_are_summed() -> None:
    sequences = sequences_of([[0, 1, 1, 2], [0, 1], [3]])
    together = met_together(sequences, sequences.item_target, 4)
    near = nearest(together, 0.0)
    scorer = NeighbourScorer(near, popularity(sequences, sequences.item_target, 4))
    rows = np.array([3])
    found = scorer(sequences, rows, seen_before(sequences, rows, 4)).scores
    assert found is not None
    assert np.isneginf(found[0, :2]).all()
    assert found[0, 2] == pytest.approx(near.toarray()[[0, 1], 2].sum(), abs=1e-5)
    assert found[0, 3] < 1e-5


def test_a_very_long_history_is_counted_by_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nextact_server.training.item_knn._LATEST", 2)
    sequences = sequences_of([[0, 1, 2], [3, 0]])
    assert met_together(sequences, sequences.item_target, 4).toarray().tolist() == [
        [1, 0, 0, 1],
        [0, 1, 1, 0],
        [0, 1, 1, 0],
        [1, 0, 0, 1],
    ]


def test_each_users_last_item_is_left_out_for_the_choice_of_parameters() -> None:
    sequences = sequences_of([[0, 1, ABSENT], [2], [3, ABSENT, 4, 5], [ABSENT]])
    counted, judged = last_left_out(sequences)
    assert counted.tolist() == [True, False, False, True, True, False, True, False, False]
    assert judged is not None
    assert judged.first.tolist() == [1, 4, 7, 9], "a single item is counted, and what follows no item is not judged"
    _, few = last_left_out(sequences, most=1)
    assert few is not None
    assert (few.first < sequences.starts[1:]).sum() == 1
    assert last_left_out(sequences_of([[0], [1]]))[1] is None


def test_the_best_point_is_found_and_equal_ones_do_not_move_it() -> None:
    grid = {"a": (0.0, 1.0, 2.0), "b": (0.0, 1.0, 2.0)}
    start = {"a": 1.0, "b": 1.0}
    assert best_point(grid, start, lambda p: -((p["a"] - 2) ** 2) - (p["b"] - p["a"]) ** 2 / 2) == {"a": 2.0, "b": 2.0}
    assert best_point(grid, start, lambda p: 0.0) == start


@pytest.mark.parametrize("baseline", [cooccurrence, item_knn])
def test_a_tuned_baseline_knows_nothing_of_what_is_judged(baseline: object) -> None:
    everything = walks(40, 12, 15, seed=1)
    last = everything.starts[1:] - 1
    kept = np.ones(len(everything.item), dtype=np.bool_)
    kept[last] = False
    train = everything.part(kept)
    changed = everything.item.copy()
    changed[last] = (changed[last] + 7) % 15

    def outcome(sequences: Sequences) -> tuple[Scorer, object]:
        return baseline(sequences.part(kept), 15, exclude_seen=False)  # type: ignore[operator]

    (scorer, chosen), (other, other_chosen) = outcome(everything), outcome(replace(everything, item=changed))
    assert chosen == other_chosen
    rows = train.starts[1:] - 1
    np.testing.assert_array_equal(scorer(train, rows, None).scores, other(train, rows, None).scores)  # type: ignore[arg-type]


def test_tuned_cooccurrence_foretells_a_walk_better_than_popularity() -> None:
    train, held_out = walks(200, 12, 30, seed=2), walks(100, 12, 30, seed=3)
    scorer, chosen = cooccurrence(train, 30, exclude_seen=False)
    assert all(chosen[name] in values for name, values in GRID.items())
    ranks = judge(scorer, Judged(held_out, held_out.starts[1:] - 4), exclude_seen=False).rank
    assert np.mean(ranks < 5) > 0.6, "of 30 items, by chance one in six"


@pytest.mark.parametrize("baseline", [cooccurrence, item_knn])
def test_users_of_one_event_are_counted_with_the_parameters_untouched(baseline: object) -> None:
    scorer, chosen = baseline(sequences_of([[0], [1]]), 3, exclude_seen=True)  # type: ignore[operator]
    assert chosen
    found = scorer(sequences_of([[2, 0]]), np.array([0, 1]), None).scores
    assert np.isfinite(found).all()
