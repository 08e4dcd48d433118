"""The linear projection from image features to the content space: its file, and its fit in closed form.

Ridge regression in dual form (Saunders, Gammerman & Vovk, ICML 1998): with n images and p features, n < p, it solves an
n x n system. The penalty is chosen by leave-one-out error, which has a closed form too (the PRESS statistic).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nextact_server.features.errors import EncoderError
from nextact_server.features.vectors import CONTENT_DIM

__all__ = ["PENALTIES", "Projection", "RidgeFit", "fit_ridge", "load_projection", "save_projection"]

PENALTIES: tuple[float, ...] = tuple(float(10.0**e) for e in np.arange(-3, 5.01, 0.25))
"""Penalties that a fit chooses from, in units of the mean squared length of a centred feature row."""


@dataclass(frozen=True, slots=True)
class Projection:
    """`features @ weight.T + bias`; weight float32 [384, p], bias float32 [384]."""

    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]

    def apply(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Project float32 [n, p] to [n, 384], not normalised."""
        return features @ self.weight.T + self.bias


@dataclass(frozen=True, slots=True)
class RidgeFit:
    """A projection, the penalty it was fitted with and the mean squared leave-one-out error of every penalty."""

    projection: Projection
    penalty: float
    leave_one_out: dict[float, float]


def fit_ridge(
    features: npt.NDArray[np.float32],
    targets: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float32] | None = None,
    penalties: Sequence[float] = PENALTIES,
) -> RidgeFit:
    """Fit `targets` [n, d] from `features` [n, p] with an intercept; the penalty is the best by leave-one-out error.

    `weights` [n] say how much each row counts (default: all the same). The intercept is not penalised. Deterministic.

    Raises:
        ValueError: fewer than two rows, or shapes that do not fit together.
    """
    n = len(features)
    if n < 2 or len(targets) != n or (weights is not None and len(weights) != n):
        raise ValueError(f"{n} feature rows and {len(targets)} targets: at least 2 and as many of each are needed")
    share = np.ones(n) if weights is None else np.asarray(weights, np.float64) * (n / np.sum(weights))
    root = np.sqrt(share)[:, None]
    x, y = features.astype(np.float64), targets.astype(np.float64)
    x_mean, y_mean = np.average(x, 0, share), np.average(y, 0, share)
    rows, wanted = root * (x - x_mean), root * (y - y_mean)
    values, vectors = np.linalg.eigh(rows @ rows.T)
    values = np.maximum(values, 0.0)
    scale = values.sum() / n
    rotated = vectors.T @ wanted
    intercept = (root / np.sqrt(n)).ravel()  # the hat of the weighted mean
    errors: dict[float, float] = {}
    for penalty in penalties:
        shrunk = values / (values + penalty * scale)
        residuals = wanted - vectors @ (shrunk[:, None] * rotated)
        leverage = (vectors**2) @ shrunk + intercept**2
        left_out = residuals / np.maximum(1 - leverage, 1e-9)[:, None]
        errors[penalty] = float((left_out**2).sum() / n)
    best = min(errors, key=lambda penalty: errors[penalty])
    dual = vectors @ (rotated / (values + best * scale)[:, None])
    weight = dual.T @ rows
    bias = y_mean - weight @ x_mean
    return RidgeFit(Projection(weight.astype(np.float32), bias.astype(np.float32)), best, errors)


def save_projection(projection: Projection, path: Path) -> None:
    """Write a projection as safetensors."""
    from safetensors.numpy import save

    tensors = {"weight": np.ascontiguousarray(projection.weight), "bias": np.ascontiguousarray(projection.bias)}
    path.write_bytes(save(tensors))


def load_projection(path: Path, features: int) -> Projection:
    """Read a projection of so many features.

    Raises:
        EncoderError: missing, broken, or of other shapes; the message names file and tensor.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not path.exists():
        raise EncoderError(
            path,
            "is missing: this encoder has no projection to the content space yet; "
            "fit one with `python examples/fit_image_projection.py`",
        )
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise EncoderError(path, f"cannot be read as safetensors: {error}") from error
    for name, shape in (("weight", (CONTENT_DIM, features)), ("bias", (CONTENT_DIM,))):
        tensor = tensors.get(name)
        if tensor is None:
            raise EncoderError(path, f"has no tensor {name!r}")
        if tensor.shape != shape or tensor.dtype != np.float32:
            raise EncoderError(path, f"tensor {name!r} is {tensor.dtype}{list(tensor.shape)}, not float32{list(shape)}")
        if not np.isfinite(tensor).all():
            raise EncoderError(path, f"tensor {name!r} holds values that are not finite")
    return Projection(tensors["weight"], tensors["bias"])
