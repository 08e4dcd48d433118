"""Who is trained on, who validates and who is judged, as masks over the events of a whole data set."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nextact_server.training.data_config import AnySplit, ColdItems, Folds, LeaveOneOut, UserSplit
from nextact_server.training.sequences import Bool, Int64, residue


@dataclass(frozen=True, slots=True)
class Rows:
    """Events of U users: `user` tuple of U names, and rows `starts[u]` up to `starts[u + 1]` int64[U + 1] of each.

    `is_target` bool[n] marks the events that came after the end of the data; `item` int64[n] says which events are of
    one item, numbered in the order of their ids, negative for none.
    """

    users: tuple[str, ...]
    starts: Int64
    is_target: Bool
    item: Int64

    @property
    def lengths(self) -> Int64:
        """Events of each user, int64[U]."""
        return np.diff(self.starts)


@dataclass(frozen=True, slots=True)
class Shown:
    """Events that are shown, bool[n], of which those of user u from row `first[u]` on, int64[U], are foretold.

    With `wanted`, bool[n], only those of them.
    """

    rows: Bool
    first: Int64
    wanted: Bool | None = None


@dataclass(frozen=True, slots=True)
class Split:
    """Masks bool[n] of what is trained on, and what is foretold; None where nothing is.

    `cold` int64[c] are the items that are not trained on, as `Rows` numbers them, if some were chosen.
    """

    train: Bool
    first_fit: Bool
    validation: Shown | None
    held_out: Shown | None
    excluded_users: tuple[str, ...]
    cold: Int64 | None = None


def split(settings: AnySplit, rows: Rows, fold: int = 0) -> Split:
    """Split the events as the settings say. Raises ValueError for a fold that there is not, or if nobody is left."""
    folds = settings.folds if isinstance(settings, Folds) else 1
    if not 0 <= fold < folds:
        raise ValueError(f"fold {fold} was asked for, but split has {folds}, numbered from 0")
    if isinstance(settings, LeaveOneOut):
        return _leave_one_out(rows)
    if isinstance(settings, ColdItems):
        return _cold_items(settings, rows)
    if isinstance(settings, UserSplit):
        residues = np.array([residue(user, settings.modulus) for user in rows.users], dtype=np.int64)
        excluded, validating = np.isin(residues, settings.excluded), np.isin(residues, settings.validation)
        return _by_user(rows, excluded, validating, _last_part(rows, settings.judged_part), describe(settings))
    excluded, validating = _deal(settings, rows.users, fold)
    return _by_user(rows, excluded, validating, np.minimum(rows.starts[:-1] + 1, rows.starts[1:]), describe(settings))


def describe(settings: AnySplit, *, refit: bool = False) -> str:
    """Say how the events are split; `refit`: whether the validation users were trained on in the end."""
    then = ", then trained on" if refit else ""
    if isinstance(settings, LeaveOneOut):
        return "leave one out: everybody's last event is foretold, all before it is trained on and counted"
    if isinstance(settings, ColdItems):
        return f"{settings.part:.0%} of the items, drawn with seed {settings.seed}, and all events on them kept apart"
    if isinstance(settings, Folds):
        return (
            f"{settings.folds} folds of users, dealt by sha256('seed,user_id') with seed {settings.seed}; "
            f"{settings.validation:.0%} of the training users held out while the number of epochs was chosen{then}"
        )
    return (
        f"by sha256(user_id) mod {settings.modulus}: {list(settings.excluded)} excluded from training and counts; "
        f"{list(settings.validation)} held out while the number of epochs was chosen{then}"
    )


def _by_user(rows: Rows, excluded: Bool, validating: Bool, first: Int64, told: str) -> Split:
    fitting = ~(excluded | validating)
    if not fitting.any():
        raise ValueError(f"{len(rows.users)} users, and not one is left to train on: {told}")

    def shown(users: Bool) -> Shown | None:
        return Shown(np.repeat(users, rows.lengths), first) if users.any() else None

    return Split(
        train=np.repeat(~excluded, rows.lengths),
        first_fit=np.repeat(fitting, rows.lengths),
        validation=shown(validating),
        held_out=shown(excluded),
        excluded_users=tuple(sorted({user for user, out in zip(rows.users, excluded, strict=True) if out})),
    )


def _last_part(rows: Rows, part: float) -> Int64:
    """Return, int64[U], the first row of each user's last `part` of events; at least the last event is in it."""
    return rows.starts[1:] - np.maximum((rows.lengths * part + 1e-9).astype(np.int64), 1)


def _deal(settings: Folds, users: tuple[str, ...], fold: int) -> tuple[Bool, Bool]:
    """Return which users are judged in this fold and which of the others validate, bool[U] both.

    Users are dealt in the order of their hash, so a fold does not depend on the order of the file, and folds differ in
    size by one at most.
    """
    names = sorted(set(users), key=lambda user: hashlib.sha256(f"{settings.seed},{user}".encode()).digest())
    judged = set(names[fold :: settings.folds])
    others = [user for user in names if user not in judged]
    validating = set(others[: max(1, round(len(others) * settings.validation))])
    return _among(users, judged), _among(users, validating)


def _among(users: tuple[str, ...], chosen: set[str]) -> npt.NDArray[np.bool_]:
    return np.array([user in chosen for user in users], dtype=np.bool_)


def _leave_one_out(rows: Rows) -> Split:
    """Leave out the last event of everyone who has two; a single event has no history to foretell it from.

    Such a user's event is trained on, and is the history that a target of theirs is foretold from.
    """
    number = np.arange(len(rows.is_target))
    end = rows.starts[1:] - np.add.reduceat(rows.is_target.astype(np.int64), rows.starts[:-1])
    known = end - rows.starts[:-1]
    if known.max() < 2:
        raise ValueError("no user has two events, so there is nothing to train on and to validate")
    last = np.where(known >= 2, end - 1, end)
    train = number < np.repeat(last, rows.lengths)
    # first == end: nothing of this user's is judged, since the rows shown end there.
    held_out = Shown(np.ones_like(rows.is_target), end) if rows.is_target.any() else None
    return Split(train, train, Shown(~rows.is_target, last), held_out, ())


def _cold_items(settings: ColdItems, rows: Rows) -> Split:
    """Keep the events on drawn items apart, and foretell each from all its user's events before it."""
    items = np.unique(rows.item[rows.item >= 0])
    count = round(settings.part * len(items))
    if not 0 < count < len(items):
        raise ValueError(f"split.part {settings.part} of {len(items)} items is {count}; some must be cold and some not")
    cold = np.sort(np.random.default_rng(settings.seed).choice(items, count, replace=False))
    is_cold = np.isin(rows.item, cold)
    everything = np.ones_like(is_cold)
    return Split(~is_cold, ~is_cold, None, Shown(everything, rows.starts[:-1], is_cold), (), cold)
