import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as known

from nextact_server.training.action_metrics import (
    ACCURACY,
    BINS,
    BRIER,
    ECE,
    LOG_LOSS,
    MACRO_F1,
    WEIGHED_F1,
    action_figures,
    bins,
    reliability,
)
from nextact_server.training.bootstrap import Resampling
from nextact_server.training.decisions import decided, f1, fit_weights
from nextact_server.training.metrics import Float64, Int64


def drawn(seed: int, rows: int, actions: int = 3) -> tuple[Float64, Int64]:
    """Log probabilities, and what came, drawn by them."""
    rng = np.random.default_rng(seed)
    chances = rng.dirichlet(np.full(actions, 0.7), rows)
    came = (chances.cumsum(axis=1) > rng.random(rows)[:, None]).argmax(axis=1)
    return np.log(chances), came


def whole(log: Float64, came: Int64, weighed: Int64 | None = None) -> dict[str, float]:
    """The figures over all events, each of a user of its own."""
    figures = action_figures(Resampling(np.arange(len(came)), samples=3), log, came, weighed)
    return {name: float(values[0]) for name, values in figures.items()}


@given(st.integers(0, 10**6), st.integers(2, 60), st.integers(2, 4))
def test_the_figures_are_those_of_scikit_learn(seed: int, rows: int, actions: int) -> None:
    log, came = drawn(seed, rows, actions)
    chosen = log.argmax(axis=1)
    labels = np.arange(actions)
    found = whole(log, came, (chosen + 1) % actions)
    assert found[LOG_LOSS] == pytest.approx(known.log_loss(came, np.exp(log), labels=labels))
    assert found[ACCURACY] == pytest.approx(known.accuracy_score(came, chosen))
    one_hot = np.eye(actions)[came]
    assert found[BRIER] == pytest.approx(((np.exp(log) - one_hot) ** 2).sum() / rows)
    occurring = np.unique(came)
    for name, decisions in ((MACRO_F1, chosen), (WEIGHED_F1, (chosen + 1) % actions)):
        wanted = known.f1_score(came, decisions, labels=occurring, average="macro", zero_division=0)
        assert found[name] == pytest.approx(wanted)


def test_calibrated_chances_have_hardly_any_calibration_error_and_boasted_ones_have() -> None:
    log, came = drawn(1, 60_000)
    assert whole(log, came)[ECE] < 0.01
    boasted = 3.0 * log
    boasted -= np.log(np.exp(boasted).sum(axis=1, keepdims=True))
    assert whole(boasted, came)[ECE] > 0.1


@given(st.integers(0, 500))
def test_bins_have_equal_mass_and_ascend(rows: int) -> None:
    confidence = np.random.default_rng(rows).random(rows)
    place = bins(confidence)
    size = np.bincount(place, minlength=BINS)
    assert size.sum() == rows
    assert size.max() - size.min() <= 1
    assert (np.diff(place[np.argsort(confidence, kind="stable")]) >= 0).all()


def test_the_calibration_error_is_the_distance_from_the_diagonal() -> None:
    log, came = drawn(2, 901)
    told = reliability(log, came)
    share = np.array(told.events) / 901
    distance = np.abs(np.array(told.confidence) - np.array(told.came))
    assert whole(log, came)[ECE] == pytest.approx(float((share * distance).sum()))


def test_no_chance_for_what_came_has_no_log_loss() -> None:
    with np.errstate(divide="ignore"):
        certain = np.log(np.eye(2)[[0, 0, 1]])
    figures = whole(certain, np.array([0, 1, 1]))
    assert LOG_LOSS not in figures
    assert figures[ACCURACY] == pytest.approx(2 / 3)
    assert all(np.isfinite(value) for value in figures.values())


@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(2, 4))
def test_weights_never_lose_on_what_they_were_fitted_on(seed: int, rows: int, actions: int) -> None:
    log, came = drawn(seed, rows, actions)
    weights = fit_weights(log, came)
    assert f1(came, decided(log, weights), actions) >= f1(came, log.argmax(axis=1), actions) - 1e-12


@given(st.integers(0, 10**6), st.integers(1, 30))
def test_of_two_actions_no_threshold_is_better_than_the_fitted_one(seed: int, rows: int) -> None:
    log, came = drawn(seed, rows, 2)
    needed = np.sort(log[:, 1] - log[:, 0])
    tried = np.concatenate(([needed[0] - 1], (needed[1:] + needed[:-1]) / 2, [needed[-1] + 1]))
    best = max(f1(came, (log[:, 1] - log[:, 0] < threshold).astype(np.int64) * -1 + 1, 2) for threshold in tried)
    assert f1(came, decided(log, fit_weights(log, came)), 2) == pytest.approx(best)


def test_weights_bring_out_a_rare_action() -> None:
    rng = np.random.default_rng(0)
    chance = rng.beta(1, 8, 4_000)
    came = (rng.random(4_000) < chance).astype(np.int64)
    log = np.log(np.column_stack((1 - chance, chance)))
    assert f1(came, log.argmax(axis=1), 2) + 0.05 < f1(came, decided(log, fit_weights(log, came)), 2)


def test_nothing_to_fit_on_leaves_the_decisions_alone() -> None:
    assert fit_weights(np.zeros((0, 3)), np.zeros(0, dtype=np.int64)).tolist() == [0, 0, 0]
