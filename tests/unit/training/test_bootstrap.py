import numpy as np
import pytest

from nextact_server.training.bootstrap import Resampling, bootstrap, estimate


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    trials = 300
    for _ in range(trials):
        size = rng.integers(1, 8, 80)
        user = np.repeat(np.arange(80), size)
        # Events of a user resemble each other: the mean over all is 0, whatever the user's own.
        values = np.repeat(rng.normal(size=80), size) + rng.normal(size=len(user))
        figure = bootstrap({"x": values}, user, samples=300)["x"]
        covered += figure.low <= 0.0 <= figure.high
    assert 0.90 <= covered / trials <= 0.98


def test_the_first_total_is_of_all_events_and_draws_keep_the_number_of_users() -> None:
    user = np.array([4, 4, 9, 9, 9])
    totals = Resampling(user, samples=50).totals(np.column_stack((np.arange(5.0), user == 4, user == 9)))
    assert totals.shape == (51, 3)
    assert totals[0].tolist() == [10, 2, 3]
    assert (totals[1:, 1] / 2 + totals[1:, 2] / 3 == 2).all(), "each draw is of two users, with all their events"


def test_many_users_are_drawn_in_blocks_like_few(monkeypatch: pytest.MonkeyPatch) -> None:
    values, user = np.random.default_rng(0).normal(size=(40, 2)), np.arange(40) // 2
    whole = Resampling(user, samples=30).totals(values)
    monkeypatch.setattr("nextact_server.training.bootstrap._DRAWN_AT_ONCE", 45)
    np.testing.assert_allclose(Resampling(user, samples=30).totals(values), whole)


def test_what_is_computed_with_one_resampling_is_paired() -> None:
    rng = np.random.default_rng(1)
    user = np.arange(500) // 5
    base = np.repeat(rng.normal(size=100), 5)
    draws = Resampling(user, samples=200)
    better, worse, events = (draws.totals(v[:, None])[:, 0] for v in (base + 0.1, base, np.ones(500)))
    gain = estimate((better - worse) / events)
    assert (gain.low, gain.value, gain.high) == pytest.approx((0.1, 0.1, 0.1))


def test_no_event_has_no_figure() -> None:
    assert bootstrap({"x": np.zeros(0)}, np.zeros(0, dtype=np.int64)) == {}
