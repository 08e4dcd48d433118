"""How sure one may be of a figure: resampling of users."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np

from nextact_server.sequence.card import Estimate
from nextact_server.training.metrics import Float64, Int64

SAMPLES: Final = 2000
_DRAWN_AT_ONCE: Final = 2**22


class Resampling:
    """Draws of users with replacement, the same for all that is computed with it, so that differences are paired.

    Users are drawn, not events, because the events of a user resemble each other (Efron and Tibshirani 1993, ch. 8).
    """

    def __init__(self, user: Int64, *, samples: int = SAMPLES, seed: int = 0) -> None:
        """Resample the users of n events, `user` int64[n]."""
        users, self._user = np.unique(user, return_inverse=True)
        self._users = len(users)
        self._samples = samples
        self._seed = seed

    def totals(self, values: Float64) -> Float64:
        """Return the sums of `values` float64[n, d] over all events, and over each draw's: float64[1 + samples, d]."""
        columns = [np.bincount(self._user, weights=column, minlength=self._users) for column in values.T]
        by_user = np.stack(columns, axis=1)
        return np.concatenate([by_user.sum(axis=0, keepdims=True), *(draw @ by_user for draw in self._draws())])

    def _draws(self) -> Iterator[Float64]:
        """Yield how often each user is drawn, float64[b, users], for `samples` draws in blocks."""
        rng = np.random.default_rng(self._seed)
        size = max(1, _DRAWN_AT_ONCE // max(1, self._users))
        for start in range(0, self._samples, size):
            draws = min(size, self._samples - start)
            drawn = rng.integers(0, self._users, size=(draws, self._users))
            cells = (drawn + self._users * np.arange(draws)[:, None]).reshape(-1)
            yield np.bincount(cells, minlength=draws * self._users).reshape(draws, -1).astype(np.float64)


def estimate(figures: Float64) -> Estimate:
    """Return a figure with its 95 % percentile interval; `figures` float64[1 + samples] as made of `totals`."""
    low, high = np.percentile(figures[1:], (2.5, 97.5))
    return Estimate(value=float(figures[0]), low=float(low), high=float(high))


def bootstrap(
    values: Mapping[str, Float64], user: Int64, *, samples: int = SAMPLES, seed: int = 0
) -> dict[str, Estimate]:
    """Estimate the mean over events of each metric, `values` mapping it to float64[n]; `user` int64[n] of each event.

    Differences between models are paired by passing the difference per event.
    """
    if not len(user):
        return {}
    totals = Resampling(user, samples=samples, seed=seed).totals(
        np.stack([np.ones(len(user)), *values.values()], axis=1)
    )
    return {name: estimate(totals[:, at] / totals[:, 0]) for at, name in enumerate(values, start=1)}
