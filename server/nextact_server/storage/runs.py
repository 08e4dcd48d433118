"""The rows of a group, gathered by user with their order kept."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Runs:
    """n rows sorted by user, stable: each user's rows are one run, in the order in which they came."""

    order: NDArray[np.int64]
    """[n] row numbers in sorted order."""
    users: NDArray[np.int64]
    """[u] the users, rising."""
    starts: NDArray[np.int64]
    """[u] where in `order` each user's run begins."""
    lengths: NDArray[np.int64]
    """[u] rows of each user."""

    @property
    def ends(self) -> NDArray[np.int64]:
        """[u] where in `order` the last row of each run is."""
        return self.starts + self.lengths - 1


def runs_of(users: NDArray[np.int64]) -> Runs:
    """Gathers n >= 1 rows by their user."""
    n = len(users)
    if n == 1:
        zero = np.zeros(1, np.int64)
        return Runs(zero, users, zero, np.ones(1, np.int64))
    order = users.argsort(kind="stable")
    ordered = users[order]
    begins = np.empty(n, np.bool_)
    begins[0] = True
    np.not_equal(ordered[1:], ordered[:-1], out=begins[1:])
    starts = begins.nonzero()[0]
    return Runs(order, ordered[starts], starts, np.diff(starts, append=n))
