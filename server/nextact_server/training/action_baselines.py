"""Foretelling the next action without a sequence model: the last one repeated, and learners of a few counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from nextact_server.sequence.config import FIRST_ACTION
from nextact_server.training.history import owners
from nextact_server.training.metrics import Float64
from nextact_server.training.scoring import Foretold
from nextact_server.training.sequences import ABSENT, Bool, Int64, Sequences

FOLDS: Final = 3
TUNING_EVENTS: Final = 20_000
"""Parameters are chosen on about so many events, those of sampled users."""

_FLOOR: Final = 1e-3
"""Part of the probability that goes by the shares of the actions, so that nothing is impossible."""

_LEAST_REPEAT: Final = 0.51


@dataclass(frozen=True, slots=True)
class ActionRival:
    """A way to foretell actions, the parameters it was made with, and what it foretold of training events.

    `seen_log` float64[t, A] are log probabilities of training events by rivals that were made without their users, and
    `seen_action` int64[t] what came: decisions can be weighed on them.
    """

    scorer: ActionScorer
    settings: Mapping[str, float]
    seen_log: Float64
    seen_action: Int64


@dataclass(frozen=True, slots=True)
class ActionScorer:
    """Foretells actions alone; `chances` gives float64[m, A] for rows of sequences."""

    chances: Callable[[Sequences, Int64], Float64]

    @property
    def items(self) -> int:
        """See Scorer."""
        return 0

    def __call__(self, sequences: Sequences, rows: Int64, removed: Bool | None) -> Foretold:  # noqa: ARG002  # of Scorer
        """See Scorer."""
        return Foretold(None, np.log(self.chances(sequences, rows)))


def last_action(train: Sequences, actions: int) -> ActionRival:
    """Repeat the last action, with the probability with which actions repeat in training; the others by their shares.

    The probability is at least .51, so that the last action is always the likeliest. Before a user's first event, and
    after an action that is not known, all go by their shares.
    """
    rows, came = _known(train)
    share = _share(came, actions)
    before = _previous(train, rows)
    kept = before >= FIRST_ACTION
    repeat = max(_LEAST_REPEAT, (1 + int((before == train.action[rows]).sum())) / (2 + int(kept.sum())))

    def chances(sequences: Sequences, rows: Int64) -> Float64:
        last = _previous(sequences, rows) - FIRST_ACTION
        out = np.tile(share, (len(rows), 1))
        acted = np.flatnonzero(last >= 0)
        own = last[acted]
        if actions > 1:
            out[acted] *= ((1.0 - repeat) / (1.0 - share[own]))[:, None]
            out[acted, own] = repeat
        return out

    seen_log = np.log(chances(train, rows))
    return ActionRival(ActionScorer(chances), {"repeated": repeat}, seen_log, came)


def learned(
    train: Sequences, actions: int, make: Callable[[float], Any], grid: Sequence[float], name: str
) -> ActionRival:
    """Fit a classifier of scikit-learn's kind, `make(value)`, on the features of every training event.

    The value is chosen by log-loss on users left out in turn, in three folds.
    """
    rows, came = _known(train)
    share = _share(came, actions)
    sample = _sampled(train, rows)
    x, y, fold = action_features(train, rows[sample], actions), came[sample], _folds(train, rows[sample])
    best, settings, best_log = np.inf, float(grid[0]), np.zeros((0, actions))
    for value in grid:
        log = np.zeros((len(y), actions))
        for number in np.unique(fold):
            out = fold == number
            log[out] = np.log(_chances(_fitted(make(value), x[~out], y[~out]), x[out], share))
        loss = float(-log[np.arange(len(y)), y].mean())
        if loss < best:
            best, settings, best_log = loss, float(value), log
    fitted = _fitted(make(settings), action_features(train, rows, actions), came)

    def chances(sequences: Sequences, rows: Int64) -> Float64:
        return _chances(fitted, action_features(sequences, rows, actions), share)

    return ActionRival(ActionScorer(chances), {name: settings}, best_log, y)


def action_features(sequences: Sequences, rows: Int64, actions: int) -> Float64:
    """Return what is known before each row, float64[m, F].

    The last action (one column for each, for an unknown one and for none), whether the last two events were of one
    item, ln(1 + seconds) between them and whether that is not known, and ln(1 + how often) each action and any event
    came so far.
    """
    begin = sequences.starts[owners(sequences, rows)]
    number = rows - begin
    kinds = FIRST_ACTION + actions
    ever = np.zeros((len(sequences.action) + 1, kinds))
    ever[np.arange(1, len(ever)), sequences.action] = 1.0
    ever = ever.cumsum(axis=0)
    so_far = (ever[rows] - ever[begin])[:, FIRST_ACTION:]
    last, before_last = np.maximum(rows - 1, 0), np.maximum(rows - 2, 0)
    item = sequences.item[last]
    same = (number > 1) & (item != ABSENT) & (item == sequences.item[before_last])
    gap = np.where(number > 0, sequences.gap_us[last], -1)
    kind = np.where(number > 0, sequences.action[last], 0)
    return np.column_stack(
        (
            np.eye(kinds)[kind],
            same,
            np.log1p(np.maximum(gap, 0) / 1e6),
            gap < 0,
            np.log1p(so_far),
            np.log1p(number),
        )
    )


def _known(train: Sequences) -> tuple[Int64, Int64]:
    rows = np.flatnonzero(train.action >= FIRST_ACTION)
    return rows, train.action[rows] - FIRST_ACTION


def _previous(sequences: Sequences, rows: Int64) -> Int64:
    """Return the action before each row as the sequences number it, 0 before a user's first."""
    is_first = rows == sequences.starts[owners(sequences, rows)]
    return np.where(is_first, 0, sequences.action[rows - 1])


def _share(came: Int64, actions: int) -> Float64:
    counts = np.bincount(came, minlength=actions) + 1.0
    share: Float64 = counts / counts.sum()
    return share


@dataclass(frozen=True, slots=True)
class _Certain:
    """What stands for a classifier where only one action came."""

    classes_: Int64

    def predict_proba(self, x: Float64) -> Float64:
        return np.ones((len(x), 1))


def _fitted(classifier: Any, x: Float64, y: Int64) -> Any:
    came = np.unique(y)
    return classifier.fit(x, y) if len(came) > 1 else _Certain(came)


def _chances(fitted: Any, x: Float64, share: Float64) -> Float64:
    out = np.zeros((len(x), len(share)))
    if len(x):
        out[:, fitted.classes_] = fitted.predict_proba(x)
    return (1.0 - _FLOOR) * out + _FLOOR * share


def _sampled(train: Sequences, rows: Int64) -> Int64:
    """Return places in `rows` of whole users, drawn by seed, with about TUNING_EVENTS rows in all."""
    if len(rows) <= TUNING_EVENTS:
        return np.arange(len(rows))
    user = owners(train, rows)
    size = np.bincount(user, minlength=len(train.users))
    order = np.random.default_rng(0).permutation(len(size))
    taken = order[: max(FOLDS, int(np.searchsorted(size[order].cumsum(), TUNING_EVENTS)))]
    return np.flatnonzero(np.isin(user, taken))


def _folds(train: Sequences, rows: Int64) -> Int64:
    """Return the fold of each row, int64[m]: users are dealt as they come in a drawn order."""
    user = owners(train, rows)
    return (np.random.default_rng(0).permutation(len(train.users)) % FOLDS)[user]
