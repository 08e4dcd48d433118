"""The final judgement: a model beside the count baselines, on users that none of them was made from."""

from __future__ import annotations

from typing import Final

from nextact_server.sequence.card import Estimate, Evaluation
from nextact_server.training.baselines import count
from nextact_server.training.metrics import bootstrap, difference, item_metrics
from nextact_server.training.scoring import CountScorer, Judgement, Scorer, first_judged, judge
from nextact_server.training.sequences import Sequences
from nextact_server.training.task import Task

ACTION_METRIC: Final = "next-action accuracy"
POPULARITY: Final = "popularity"
MARKOV: Final = "first-order Markov"
LAST_ACTION: Final = "last action repeated"

PROTOCOL: Final = (
    "Held-out users, event by event over the last {part:.0%} of each one's events, the state advanced over all events "
    "before; next item ranked over all {items} items of the catalogue{seen}, ties against; 95 % percentile bootstrap "
    "over users, 2,000 samples, differences paired"
)


def evaluate(scorer: Scorer, task: Task, train: Sequences, held_out: Sequences) -> Evaluation:
    """Judge `scorer` on `held_out`, and on the same events the baselines counted on `train`."""
    counts = count(train, len(task.catalogue.ids))
    first = first_judged(held_out, task.judged_part)
    model, popularity, markov = (
        judge(candidate, held_out, first, exclude_seen=task.exclude_seen)
        for candidate in (scorer, CountScorer(counts, markov=False), CountScorer(counts, markov=True))
    )
    actions = {ACTION_METRIC: model.action_hit.astype(float)}
    repeated = {ACTION_METRIC: popularity.action_hit.astype(float)}
    gains = {f"{ACTION_METRIC} over {LAST_ACTION}": difference(actions, repeated, [ACTION_METRIC])[ACTION_METRIC]}
    gain_estimates = bootstrap(gains, model.action_user)
    for name, baseline in ((POPULARITY, popularity), (MARKOV, markov)):
        gain_estimates |= _item_gains(model, baseline, name)
    return Evaluation(
        protocol=PROTOCOL.format(
            part=task.judged_part,
            items=len(task.catalogue.ids),
            seen=", seen items removed" if task.exclude_seen else "",
        ),
        users=len(held_out.users),
        events=len(model.action_hit),
        metrics=_items(model) | bootstrap(actions, model.action_user),
        baselines={
            POPULARITY: _items(popularity),
            MARKOV: _items(markov),
            LAST_ACTION: bootstrap(repeated, popularity.action_user),
        },
        gains=gain_estimates,
    )


def required_gains() -> tuple[str, ...]:
    """Return the differences whose intervals must lie above zero before a version is worth serving."""
    return (f"HR@10 over {POPULARITY}", f"HR@10 over {MARKOV}", f"{ACTION_METRIC} over {LAST_ACTION}")


def _items(judged: Judgement) -> dict[str, Estimate]:
    return bootstrap(item_metrics(judged.rank), judged.item_user)


def _item_gains(model: Judgement, baseline: Judgement, name: str) -> dict[str, Estimate]:
    ours, theirs = item_metrics(model.rank), item_metrics(baseline.rank)
    paired = bootstrap(difference(ours, theirs, list(ours)), model.item_user)
    return {f"{metric} over {name}": estimate for metric, estimate in paired.items()}
