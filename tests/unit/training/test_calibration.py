"""One temperature: no other is better, it is found again, and it changes no order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from nextact_server.training.calibration import temperature


def tempered(logits: np.ndarray, heat: float) -> np.ndarray:
    return log_softmax(logits / heat, axis=1)


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


@given(seed=st.integers(0, 99))
def test_log_probabilities_have_the_temperature_of_their_logits(seed: int) -> None:
    logits, came = drawn(seed, 50, 4, 1.5)
    assert temperature(tempered(logits, 1.0), came) == pytest.approx(temperature(logits, came), rel=1e-6)


def test_what_is_not_offered_stays_so_and_says_nothing() -> None:
    logits, came = drawn(3, 500, 4, 2.0)
    wider = np.concatenate([logits, np.full((500, 3), -np.inf)], axis=1)
    assert temperature(wider, came) == pytest.approx(temperature(logits, came), rel=1e-9)
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
