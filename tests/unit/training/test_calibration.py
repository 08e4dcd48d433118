"""One temperature: no other is better, it is found again, and it changes no order."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import sequences_of

from nextact_server.training.calibration import item_temperature, temperature, tempered
from nextact_server.training.prepare import Judged
from nextact_server.training.scoring import Foretold
from nextact_server.training.sequences import Bool, Int64, Sequences


def drawn(seed: int, rows: int, columns: int, heat: float, spread: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and what came by their probabilities at the temperature `heat`."""
    random = np.random.default_rng(seed)
    logits = random.standard_normal((rows, columns)) * spread
    chances = np.exp(tempered(logits, heat))
    came = (chances.cumsum(axis=1) < random.random((rows, 1))).sum(axis=1).clip(max=columns - 1)
    return logits, came


def log_loss(logits: np.ndarray, came: np.ndarray, heat: float) -> float:
    return float(-np.take_along_axis(tempered(logits, heat), came[:, None], axis=1).mean())


@pytest.mark.parametrize("heat", [0.3, 1.0, 1.7, 4.0])
def test_the_temperature_that_made_the_data_is_found_again(heat: float) -> None:
    logits, came = drawn(1, 20_000, 5, heat)
    assert temperature(logits, came) == pytest.approx(heat, rel=0.05)


@given(
    seed=st.integers(0, 999),
    rows=st.integers(1, 30),
    columns=st.integers(1, 6),
    heat=st.floats(0.1, 10.0),
    other=st.floats(0.05, 20.0),
)
@settings(max_examples=100, deadline=None)
def test_no_other_temperature_has_a_smaller_log_loss(
    seed: int, rows: int, columns: int, heat: float, other: float
) -> None:
    logits, came = drawn(seed, rows, columns, heat)
    found = temperature(logits, came)
    assert 0.05 <= found <= 20.0
    assert log_loss(logits, came, found) <= log_loss(logits, came, other) + 1e-9
    assert log_loss(logits, came, found) <= log_loss(logits, came, 1.0) + 1e-9


@given(seed=st.integers(0, 99), heat=st.floats(0.05, 20.0))
def test_log_probabilities_have_the_temperature_of_their_logits_and_sum_to_one(seed: int, heat: float) -> None:
    logits, came = drawn(seed, 50, 4, 1.5)
    assert temperature(tempered(logits, 1.0), came) == pytest.approx(temperature(logits, came), rel=1e-6)
    made = tempered(logits, heat)
    np.testing.assert_allclose(np.exp(made).sum(axis=1), 1.0)
    np.testing.assert_array_equal(made.argsort(axis=1), logits.argsort(axis=1))
    np.testing.assert_allclose(tempered(tempered(logits, heat), 1.0), made, atol=1e-12)


def test_what_is_not_offered_stays_so_and_says_nothing() -> None:
    logits, came = drawn(3, 500, 4, 2.0)
    wider = np.concatenate([logits, np.full((500, 3), -np.inf)], axis=1)
    assert temperature(wider, came) == pytest.approx(temperature(logits, came), rel=1e-9)
    assert np.isneginf(tempered(wider, 2.0)[:, 4:]).all()
    assert not np.isnan(tempered(wider, 2.0)).any()
    removed = np.concatenate([wider, wider[:100]])
    assert temperature(removed, np.concatenate([came, np.full(100, 5)])) == pytest.approx(temperature(logits, came))


def test_single_precision_is_precise_enough() -> None:
    logits, came = drawn(4, 2000, 5, 2.0)
    assert temperature(logits.astype(np.float32), came) == pytest.approx(temperature(logits, came), rel=1e-5)


@pytest.mark.parametrize(
    ("logits", "came"),
    [
        (np.zeros((0, 0)), np.zeros(0, np.int64)),
        (np.zeros((0, 3)), np.zeros(0, np.int64)),
        (np.zeros((5, 1)), np.zeros(5, np.int64)),
        (np.full((5, 3), 0.3), np.arange(5) % 3),
        (np.array([[0.0, -np.inf]]), np.array([1])),
    ],
    ids=["nothing", "no rows", "one action", "no difference", "only what was not offered"],
)
def test_where_none_is_better_it_is_one(logits: np.ndarray, came: np.ndarray) -> None:
    assert temperature(logits, came) == 1.0


def test_one_who_is_always_right_or_always_wrong_gets_a_bounded_one() -> None:
    logits = np.eye(3) * 4.0
    assert temperature(logits, np.arange(3)) == pytest.approx(1 / 20)
    assert temperature(logits, np.array([1, 2, 0])) == pytest.approx(20.0)


@dataclass
class LogitScorer:
    """Scores `logits[row]`, and remembers which rows it was asked."""

    logits: np.ndarray
    asked: list[int]

    @property
    def items(self) -> int:
        return self.logits.shape[1]

    def __call__(self, sequences: Sequences, rows: Int64, removed: Bool | None) -> Foretold:
        self.asked += rows.tolist()
        scores = self.logits[rows].copy()
        if removed is not None:
            scores[removed] = -np.inf
        return Foretold(scores, None)


def world(seed: int, users: int = 200, length: int = 5, items: int = 6) -> tuple[np.ndarray, Judged]:
    logits, came = drawn(seed, users * length, items, 2.5)
    sequences = sequences_of(came.reshape(users, length).tolist())
    return logits, Judged(sequences, sequences.starts[:-1] + 1)


def test_the_items_temperature_is_that_of_all_judged_rows() -> None:
    logits, judged = world(7)
    rows = np.flatnonzero(np.arange(1000) % 5)
    scorer = LogitScorer(logits, [])
    found = item_temperature(scorer, judged, exclude_seen=False)
    assert scorer.asked == rows.tolist()
    assert found == pytest.approx(temperature(logits[rows], judged.sequences.item[rows]))
    assert found == pytest.approx(2.5, rel=0.2)


def test_many_rows_are_thinned_evenly_to_what_is_held_at_a_time() -> None:
    logits, judged = world(7)
    scorer = LogitScorer(logits, [])
    found = item_temperature(scorer, judged, exclude_seen=False, cells=6 * 400)
    assert len(scorer.asked) == 400
    assert set(np.diff(scorer.asked)) <= {2, 3}
    assert found == pytest.approx(2.5, rel=0.3)


def test_items_seen_before_are_not_offered() -> None:
    logits, judged = world(8)
    scorer = LogitScorer(logits, [])
    kept = item_temperature(scorer, judged, exclude_seen=True)
    item, wanted_rows, cut = judged.sequences.item, [], logits.copy()
    for row in range(1000):
        cut[row, item[row - row % 5 : row]] = -np.inf
        if row % 5 and np.isfinite(cut[row, item[row]]):
            wanted_rows.append(row)
    assert kept == pytest.approx(temperature(cut[wanted_rows], item[wanted_rows]))


def test_without_items_to_foretell_it_is_one() -> None:
    logits, judged = world(9, users=2)
    nothing = Judged(judged.sequences, judged.sequences.starts[1:])
    assert item_temperature(LogitScorer(logits, []), nothing, exclude_seen=False) == 1.0
    assert item_temperature(LogitScorer(logits[:, :0], []), judged, exclude_seen=False) == 1.0
