"""The final judgement: a model beside the baselines, all made from the same training events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from nextact_server.sequence.card import Evaluation
from nextact_server.training.action_metrics import ACCURACY, reliability
from nextact_server.training.comparison import MODEL, compare_actions, compare_items
from nextact_server.training.data_config import AnySplit, ColdItems, LeaveOneOut, UserSplit
from nextact_server.training.decisions import decided, fit_weights
from nextact_server.training.history import owners
from nextact_server.training.judging import judge
from nextact_server.training.outcomes import ActionOutcomes, Events, ItemOutcomes
from nextact_server.training.prepare import Judged
from nextact_server.training.rivals import LAST_ACTION, MARKOV, POPULARITY, action_rivals, item_rivals
from nextact_server.training.scoring import Scorer
from nextact_server.training.sequences import Sequences
from nextact_server.training.task import Task

__all__ = [
    "ACTION_METRIC",
    "LAST_ACTION",
    "MARKOV",
    "POPULARITY",
    "Contest",
    "conclude",
    "contest",
    "evaluate",
    "required_gains",
    "what_is_judged",
]

ACTION_METRIC: Final = ACCURACY

_PROTOCOL: Final = (
    "{told}. Event by event, the state advanced over all events before; next item ranked over all {items} items of the "
    "catalogue{seen}, ties against; baselines made from the same training events, their parameters chosen there; 95 % "
    "percentile bootstrap over users, 2,000 samples, differences paired"
)


@dataclass(frozen=True, slots=True)
class Contest:
    """What model and baselines foretold of a fold's events; None where the model or the data has nothing of the kind.

    `settings` maps a baseline to the parameters that were chosen for it.
    """

    judged: int
    users: int
    items: ItemOutcomes | None
    actions: ActionOutcomes | None
    settings: Mapping[str, Mapping[str, float]]


def evaluate(
    scorer: Scorer,
    task: Task,
    train: Sequences,
    judged: Judged,
    *,
    tuning: Judged | None = None,
    told: str = "Events that were not trained on",
    thorough: bool = True,
) -> Evaluation:
    """Judge `scorer` on `judged`, and on the same events the baselines made from `train`; see `contest`.

    `told` says, for the protocol, which events are judged.
    """
    return conclude([contest(scorer, task, train, judged, tuning=tuning, thorough=thorough)], task, told=told)


def contest(
    scorer: Scorer,
    task: Task,
    train: Sequences,
    judged: Judged,
    *,
    tuning: Judged | None = None,
    thorough: bool = True,
) -> Contest:
    """Let the model and the baselines foretell the same events.

    With `tuning`, events of training users, decisions for an action are weighed too: the model's weights are fitted
    there, each baseline's on training events that were foretold without their users. Without `thorough` only those
    baselines take part that have no parameters: popularity, the Markov chain, the last action repeated.
    """
    model = judge(scorer, judged, exclude_seen=task.exclude_seen)
    settings: dict[str, Mapping[str, float]] = {}
    items = actions = None
    if len(model.rank):
        ranks = {MODEL: model.rank}
        for name, item_rival in item_rivals(train, len(task.catalogue.ids), task.exclude_seen, thorough).items():
            ranks[name] = judge(item_rival.scorer, judged, exclude_seen=task.exclude_seen).rank
            settings[name] = item_rival.settings
        items = ItemOutcomes(Events.of(judged.sequences, model.item_row), ranks)
    if len(model.action):
        log, weighed = {MODEL: model.action_log}, {}
        if tuning is not None:
            own = judge(scorer, tuning, exclude_seen=task.exclude_seen)
            weighed[MODEL] = decided(model.action_log, fit_weights(own.action_log, own.action))
        for name, rival in action_rivals(train, len(task.actions), thorough).items():
            log[name] = judge(rival.scorer, judged, exclude_seen=False).action_log
            settings[name] = rival.settings
            if tuning is not None:
                weighed[name] = decided(log[name], fit_weights(rival.seen_log, rival.seen_action))
        actions = ActionOutcomes(Events.of(judged.sequences, model.action_row), model.action, log, weighed)
    rows = judged.rows
    users = len(np.unique(owners(judged.sequences, rows)))
    return Contest(len(rows), users, items, actions, settings)


def conclude(contests: Sequence[Contest], task: Task, *, told: str) -> Evaluation:
    """Put the folds' outcomes together: each fold has its own model and baselines, and users of its own."""
    parts, calibration = [], {}
    if items := [one.items for one in contests if one.items is not None]:
        parts.append(compare_items(ItemOutcomes.joined(items)))
    if actions := [one.actions for one in contests if one.actions is not None]:
        acted = ActionOutcomes.joined(actions)
        parts.append(compare_actions(acted))
        calibration = {who: reliability(log, acted.action) for who, log in acted.log.items()}
    return Evaluation(
        protocol=_PROTOCOL.format(
            told=told.rstrip("."),
            items=len(task.catalogue.ids),
            seen=", seen items removed" if task.exclude_seen else "",
        ),
        users=sum(one.users for one in contests),
        events=sum(one.judged for one in contests),
        metrics={name: figure for part in parts for name, figure in part.metrics.items()},
        baselines={who: figures for part in parts for who, figures in part.baselines.items()},
        gains={name: gain for part in parts for name, gain in part.gains.items()},
        best={metric: who for part in parts for metric, who in part.best.items()},
        slices={way: cut for part in parts for way, cut in part.slices.items()},
        reliability=calibration,
        settings=_settings(contests),
    )


def what_is_judged(split: AnySplit, *, validation: bool = False) -> str:
    """Say which events a split holds out, or has for `validation`, for the protocol."""
    if isinstance(split, UserSplit):
        who = "validation user" if validation else "held-out user"
        said = f"The last {split.judged_part:.0%} of every {who}'s events"
    elif isinstance(split, LeaveOneOut):
        said = "Every user's last event before the one held out" if validation else "Every user's held-out last event"
    elif isinstance(split, ColdItems):
        said = f"Every event on one of the {split.part:.0%} of the items that were kept apart from training"
    else:
        said = "Every event from the second on of users who were not trained on"
    return f"{said}, on which the number of epochs was chosen" if validation else said


def required_gains() -> tuple[str, ...]:
    """Return the differences whose intervals must lie above zero before a version is worth serving."""
    return (f"HR@10 over {POPULARITY}", f"HR@10 over {MARKOV}", f"{ACTION_METRIC} over {LAST_ACTION}")


def _settings(contests: Sequence[Contest]) -> dict[str, dict[str, float]]:
    return {
        name if len(contests) == 1 else f"{name}, fold {fold}": dict(chosen)
        for fold, one in enumerate(contests)
        for name, chosen in one.settings.items()
        if chosen
    }
