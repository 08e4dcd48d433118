"""The content space: unit vectors of one dimension, whatever they were made of."""

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["CONTENT_DIM", "Vector", "mean_direction", "unit_rows"]

CONTENT_DIM = 384
"""Dimension of the space: that of all-MiniLM-L6-v2's sentence embeddings."""

Vector = npt.NDArray[np.float32]


def unit_rows(matrix: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
    """Return the rows of a matrix at length 1; rows of zeros stay."""
    norms = np.linalg.norm(matrix, axis=-1, keepdims=True)
    return np.asarray(matrix / np.maximum(norms, 1e-12), dtype=np.float32)


def mean_direction(first: Vector, second: Vector) -> Vector:
    """Return the unit vector halfway between two unit vectors: what a content with text and image is."""
    return unit_rows((first + second) / 2)
