"""When the next event comes: laws of the answer, and that the loss finds the hazard that made the data."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextact_server.sequence.survival import (
    BINS,
    NO_GAP,
    bin_edges,
    expected_gap_s,
    leave_probability,
    loss,
    until_next,
)

S = 1_000_000
horizons = st.floats(1.0, 1e9)
elapsed_times = st.floats(allow_nan=False, allow_infinity=False)


def logits_of(seed: int, rows: int = 3, bins: int = BINS, spread: float = 3.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((rows, bins)) * spread - 1.0).astype(np.float32)


def memoryless(rate: float, horizon_s: float) -> np.ndarray:
    """Logits float64[1, bins] of a hazard that is the same at any time: softplus(x) = rate x width."""
    hazard = rate * np.diff(bin_edges(horizon_s))
    return (hazard + np.log(-np.expm1(-hazard)))[None]


def survival(logits: np.ndarray, at_s: float, horizon_s: float) -> float:
    """S(at) by plain multiplication over bins, the last one going on for ever."""
    edges = bin_edges(horizon_s, len(logits))
    left = 1.0
    for number, logit in enumerate(logits.astype(np.float64)):
        begin, end = edges[number], math.inf if number == len(logits) - 1 else edges[number + 1]
        part = (min(max(at_s, begin), end) - begin) / (edges[number + 1] - begin)
        left *= (1.0 / (1.0 + math.exp(logit))) ** part
    return left


@given(horizon_s=horizons, bins=st.integers(4, 60))
def test_edges_rise_from_zero_beyond_the_horizon_which_is_one_of_them(horizon_s: float, bins: int) -> None:
    edges = bin_edges(horizon_s, bins)
    assert len(edges) == bins + 1
    assert edges[0] == 0.0
    assert (np.diff(edges) > 0).all()
    assert edges[-3:].tolist() == [horizon_s, 2 * horizon_s, 4 * horizon_s]


def test_bins_are_equal_steps_of_the_logarithm_from_a_second_to_the_horizon() -> None:
    edges = bin_edges(604_800.0)
    assert (len(edges), edges[1]) == (25, 1.0)
    np.testing.assert_allclose(np.diff(np.log(edges[1:-2])), np.log(604_800) / 21)


@pytest.mark.parametrize("horizon_s", [0.0, -1.0, 0.5, 1e10, math.nan, math.inf])
def test_a_horizon_that_makes_no_bins_is_refused_with_its_value(horizon_s: float) -> None:
    with pytest.raises(ValueError, match=f"horizon_s is {horizon_s}"):
        bin_edges(horizon_s)
    with pytest.raises(ValueError, match="3 bins"):
        bin_edges(60.0, 3)


@given(seed=st.integers(0, 99), elapsed_s=elapsed_times, horizon_s=horizons)
@settings(max_examples=150)
def test_answers_are_finite_and_in_their_ranges_for_any_finite_input(
    seed: int, elapsed_s: float, horizon_s: float
) -> None:
    edges = bin_edges(horizon_s)
    logits = logits_of(seed, spread=10.0 ** (seed % 40 - 1))
    logits[0] = np.random.default_rng(seed).choice([-3e38, 3e38, 0.0], BINS)
    elapsed = np.full(3, elapsed_s)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        leave = leave_probability(logits, elapsed, horizon_s, edges)
        gap = expected_gap_s(logits, elapsed, edges)
    assert leave.dtype == gap.dtype == np.float32
    assert ((leave >= 0.0) & (leave <= 1.0)).all()
    assert ((gap >= 0.0) & (gap <= np.float32(edges[-1]) * (1 + 1e-6))).all()


@given(seed=st.integers(0, 99), elapsed_s=st.floats(0.0, 1e5), within_s=st.floats(0.0, 1e5))
def test_leaving_is_the_conditional_survival(seed: int, elapsed_s: float, within_s: float) -> None:
    horizon_s, logits = 3600.0, logits_of(seed, spread=1.0)
    wanted = [survival(row, elapsed_s + within_s, horizon_s) / survival(row, elapsed_s, horizon_s) for row in logits]
    got = leave_probability(logits, np.full(3, elapsed_s), within_s, bin_edges(horizon_s))
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)


@given(seed=st.integers(0, 99), elapsed_s=st.floats(0.0, 1e7), short=st.floats(0.0, 1e6), more=st.floats(0.0, 1e6))
def test_leaving_gets_less_likely_the_longer_the_horizon(
    seed: int, elapsed_s: float, short: float, more: float
) -> None:
    logits, elapsed, edges = logits_of(seed), np.full(3, elapsed_s), bin_edges(86_400.0)
    longer = leave_probability(logits, elapsed, short + more, edges)
    assert (longer <= leave_probability(logits, elapsed, short, edges) + 1e-7).all()
    np.testing.assert_array_equal(leave_probability(logits, elapsed, 0.0, edges), 1.0)


@given(per_horizon=st.floats(1e-3, 30.0), elapsed_s=st.floats(-10.0, 1e9), horizon_s=st.floats(1.0, 1e7))
def test_a_memoryless_hazard_gives_the_same_answer_after_any_time(
    per_horizon: float, elapsed_s: float, horizon_s: float
) -> None:
    rate, edges = per_horizon / horizon_s, bin_edges(horizon_s)
    logits, elapsed = memoryless(rate, horizon_s), np.array([elapsed_s])
    assert leave_probability(logits, elapsed, horizon_s, edges) == pytest.approx(math.exp(-per_horizon), rel=1e-4)
    wanted = -math.expm1(-rate * edges[-1]) / rate  # the mean of an exponential waiting time cut at the last edge
    assert expected_gap_s(logits, elapsed, edges) == pytest.approx(wanted, rel=1e-4)


@given(seed=st.integers(0, 99), elapsed_s=st.floats(0.0, 500.0))
@settings(max_examples=30, deadline=None)
def test_the_expected_gap_is_the_integral_of_the_conditional_survival(seed: int, elapsed_s: float) -> None:
    horizon_s, logits = 60.0, logits_of(seed, rows=1, spread=1.0)
    edges = bin_edges(horizon_s)
    at = np.concatenate([np.linspace(begin, end, 40) for begin, end in pairwise(edges)])
    waits = np.unique(np.concatenate([at, at - elapsed_s]).clip(0.0, edges[-1]))
    left = [survival(logits[0], elapsed_s + wait, horizon_s) for wait in waits.tolist()]
    wanted = np.trapezoid(left, waits) / survival(logits[0], elapsed_s, horizon_s)
    assert expected_gap_s(logits, np.array([elapsed_s]), edges)[0] == pytest.approx(wanted, rel=5e-3)


@given(seed=st.integers(0, 99))
def test_a_moment_before_the_last_event_counts_as_that_event(seed: int) -> None:
    logits, edges = logits_of(seed), bin_edges(3600.0)
    before, at = np.array([-1.0, -1e300, -5e5]), np.zeros(3)
    np.testing.assert_array_equal(expected_gap_s(logits, before, edges), expected_gap_s(logits, at, edges))
    np.testing.assert_array_equal(
        leave_probability(logits, before, 60.0, edges), leave_probability(logits, at, 60.0, edges)
    )


def rows_of(seed: int, count: int = 40) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(seed)
    gap = np.where(random.random(count) < 0.2, NO_GAP, (10 ** random.uniform(-2, 5, count) * S).astype(np.int64))
    logits = torch.from_numpy(logits_of(seed, count, spread=1.0)).requires_grad_()
    return logits, torch.from_numpy(gap), torch.from_numpy(random.random(count) < 0.3)


@given(seed=st.integers(0, 999))
@settings(max_examples=50, deadline=None)
def test_the_loss_is_the_log_likelihood_said_plainly(seed: int) -> None:
    logits, gap, censored = rows_of(seed)
    edges = bin_edges(3600.0)
    terms = []
    for row, wait_us, is_cut in zip(logits.detach().numpy(), gap.tolist(), censored.tolist(), strict=True):
        if wait_us == NO_GAP:
            continue
        wait = min(wait_us / S, float(edges[-1]))
        if is_cut or wait == edges[-1]:
            middles = (edges[1:] + edges[:-1]) / 2
            terms.append(-math.log(survival(row, float(edges[np.searchsorted(middles, wait, side="right")]), 3600.0)))
            continue
        bin_of = int(np.searchsorted(edges, wait, side="right")) - 1
        before, after = (survival(row, float(edge), 3600.0) for edge in edges[bin_of : bin_of + 2])
        terms.append(-math.log(before - after))
    got = loss(logits, gap, censored, edges)
    assert float(got.detach()) == pytest.approx(np.mean(terms), rel=1e-3)
    got.backward()
    assert torch.isfinite(logits.grad).all()
    assert not logits.grad[gap == NO_GAP].any()


def test_a_batch_of_which_nothing_is_known_loses_nothing_and_has_gradients() -> None:
    for rows in (0, 4):
        logits = torch.randn(rows, BINS, requires_grad=True)
        none = loss(logits, torch.full((rows,), NO_GAP), torch.ones(rows, dtype=torch.bool), bin_edges(60.0))
        none.backward()
        assert none.item() == 0.0


def test_a_user_who_was_watched_for_no_time_says_nothing() -> None:
    logits = torch.randn(2, BINS)
    gap, edges = torch.zeros(2, dtype=torch.int64), bin_edges(60.0)
    assert loss(logits, gap, torch.tensor([True, True]), edges).item() == 0.0
    assert loss(logits, gap, torch.tensor([False, True]), edges).item() > 0.0


@pytest.mark.parametrize(
    ("shape", "at_once"), [(1.0, 0.0), (0.6, 0.0), (1.0, 0.3)], ids=["memoryless", "bursty", "ties"]
)
def test_what_is_fitted_to_censored_waits_is_the_survival_that_made_them(shape: float, at_once: float) -> None:
    """Up to a third of the waits are cut off; `at_once` of the events come at the very moment of the one before."""
    random = np.random.default_rng(5)
    horizon_s, count = 86_400.0, 20_000
    edges = bin_edges(horizon_s)
    wait = random.weibull(shape, count) * 40_000.0 * (random.random(count) >= at_once)
    cut = random.exponential(100_000.0, count)
    gap = torch.from_numpy((np.minimum(wait, cut) * S).astype(np.int64))
    one = torch.zeros(1, BINS, requires_grad=True)
    optimizer = torch.optim.LBFGS([one], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(one.expand(count, -1), gap, torch.from_numpy(cut < wait), edges)
        value.backward()
        return value

    optimizer.step(closure)
    found = one.detach().numpy()
    for within_s in (60.0, 3600.0, 40_000.0, horizon_s):
        wanted = (1.0 - at_once) * math.exp(-((within_s / 40_000.0) ** shape))
        assert leave_probability(found, np.zeros(1), within_s, edges)[0] == pytest.approx(wanted, abs=0.02)
    elapsed = 20_000.0
    came_later = wait[wait > elapsed] - elapsed
    wanted = np.minimum(came_later, edges[-1]).mean()
    assert expected_gap_s(found, np.array([elapsed]), edges)[0] == pytest.approx(wanted, rel=0.1)


def test_the_last_event_of_each_user_is_censored_when_the_watching_ends() -> None:
    starts, time_us = np.array([0, 3, 3, 4]), np.array([10, 15, 15, 40])
    gap, censored = until_next(starts, time_us, 100)
    assert gap.tolist() == [5, 0, 85, 60]
    assert censored.tolist() == [False, False, True, True]
    gap, censored = until_next(starts, time_us, np.array([15, 0, 39]))
    assert gap.tolist() == [5, 0, 0, 0]
    assert censored.tolist() == [False, False, True, True]
    gap, censored = until_next(np.array([0]), np.zeros(0, np.int64), 7)
    assert (len(gap), len(censored)) == (0, 0)
