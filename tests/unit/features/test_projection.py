from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from nextact_server.features.errors import EncoderError
from nextact_server.features.projection import Projection, fit_ridge, load_projection, save_projection


def sample(seed: int, n: int = 12, p: int = 30, d: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, p)).astype(np.float32) + 2
    targets = (features @ rng.normal(size=(p, d)) + rng.normal(size=(n, d))).astype(np.float32)
    return features, targets


def primal(features: np.ndarray, targets: np.ndarray, weights: np.ndarray, penalty: float) -> Projection:
    """The textbook's p x p system, with an intercept that is not penalised."""
    x, y = features.astype(np.float64), targets.astype(np.float64)
    x_mean, y_mean = np.average(x, 0, weights), np.average(y, 0, weights)
    a, b = x - x_mean, y - y_mean
    gram = a.T @ (weights[:, None] * a) + penalty * np.eye(a.shape[1])
    weight = np.linalg.solve(gram, a.T @ (weights[:, None] * b)).T
    return Projection(weight, y_mean - weight @ x_mean)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), penalty=st.sampled_from([0.01, 0.3, 10.0]), weighted=st.booleans())
def test_the_dual_fit_is_the_primal_one(seed: int, penalty: float, weighted: bool) -> None:
    features, targets = sample(seed)
    weights = np.random.default_rng(seed).uniform(0.5, 2, len(features)) if weighted else np.ones(len(features))
    share = weights * len(weights) / weights.sum()
    centred = np.sqrt(share)[:, None] * (features - np.average(features.astype(np.float64), 0, share))
    scale = (centred**2).sum() / len(features)
    fit = fit_ridge(features, targets, weights.astype(np.float32), [penalty])
    expected = primal(features, targets, share, penalty * scale)
    assert np.abs(fit.projection.weight - expected.weight).max() < 1e-3
    assert np.abs(fit.projection.apply(features) - expected.apply(features)).max() < 1e-2


def test_the_closed_leave_one_out_error_is_that_of_leaving_each_out() -> None:
    features, targets = sample(3)
    n = len(features)
    centred = features - features.mean(0)
    scale = float((centred.astype(np.float64) ** 2).sum() / n)
    penalty = 0.5
    fit = fit_ridge(features, targets, None, [penalty])
    errors = []
    for out in range(n):
        keep = np.arange(n) != out
        without = primal(features[keep], targets[keep], np.ones(n - 1), penalty * scale)
        errors.append(((without.apply(features[out : out + 1]) - targets[out]) ** 2).sum())
    assert fit.leave_one_out[penalty] == pytest.approx(np.mean(errors), rel=1e-4)


def test_the_penalty_with_the_least_leave_one_out_error_is_chosen() -> None:
    features, targets = sample(5)
    fit = fit_ridge(features, targets)
    assert fit.leave_one_out[fit.penalty] == min(fit.leave_one_out.values())


def test_noise_is_answered_with_its_mean_and_a_signal_is_not() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 60)).astype(np.float32)
    noise = rng.normal(size=(40, 5)).astype(np.float32)
    signal = features @ rng.normal(size=(60, 5)).astype(np.float32)
    assert fit_ridge(features, noise).penalty > 10 * fit_ridge(features, signal).penalty


@pytest.mark.parametrize(("rows", "targets"), [(1, 1), (4, 3)])
def test_too_few_rows_are_refused(rows: int, targets: int) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        fit_ridge(np.zeros((rows, 3), np.float32), np.zeros((targets, 2), np.float32))


def test_a_saved_projection_comes_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    saved = Projection(rng.normal(size=(384, 7)).astype(np.float32), rng.normal(size=384).astype(np.float32))
    save_projection(saved, tmp_path / "p.safetensors")
    loaded = load_projection(tmp_path / "p.safetensors", 7)
    assert (loaded.weight == saved.weight).all()
    assert (loaded.bias == saved.bias).all()


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"bias": np.zeros(384, np.float32)}, "no tensor 'weight'"),
        ({"weight": np.zeros((384, 6), np.float32), "bias": np.zeros(384, np.float32)}, r"'weight' is .*\[384, 6\]"),
        ({"weight": np.zeros((384, 7), np.float64), "bias": np.zeros(384, np.float32)}, "'weight' is float64"),
        ({"weight": np.zeros((384, 7), np.float32), "bias": np.full(384, np.nan, np.float32)}, "'bias' holds"),
    ],
)
def test_a_wrong_tensor_is_named(tmp_path: Path, tensors: dict[str, np.ndarray], said: str) -> None:
    path = tmp_path / "p.safetensors"
    save_file(tensors, path)
    with pytest.raises(EncoderError, match=said) as caught:
        load_projection(path, 7)
    assert str(path) in str(caught.value)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    path.write_bytes(b"\x10\0\0\0\0\0\0\0not json at all!")
    with pytest.raises(EncoderError, match=r"p\.safetensors: cannot be read"):
        load_projection(path, 7)
