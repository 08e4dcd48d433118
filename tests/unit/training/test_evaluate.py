import numpy as np
import pytest
from made_up import DrawnScorer, sequences_of, task_of

from nextact_server.sequence.card import Estimate, Evaluation
from nextact_server.sequence.config import FIRST_ACTION
from nextact_server.training import report
from nextact_server.training.action_metrics import BRIER, ECE, LOG_LOSS, MACRO_F1, WEIGHED_F1
from nextact_server.training.data_config import Folds, LeaveOneOut, UserSplit
from nextact_server.training.evaluate import (
    ACTION_METRIC,
    LAST_ACTION,
    MARKOV,
    POPULARITY,
    conclude,
    contest,
    evaluate,
    required_gains,
    what_is_judged,
)
from nextact_server.training.prepare import Judged
from nextact_server.training.rivals import COOCCURRENCE, ITEM_KNN
from nextact_server.training.scoring import Foretold
from nextact_server.training.sequences import Bool, Int64, Sequences

ITEMS = 20
TASK = task_of(ITEMS, "view", "buy")


def world(users: int, seed: int, each: int = 9) -> Sequences:
    """Users who go round a circle, at times a step too far, and buy every third thing or so."""
    rng = np.random.default_rng(seed)
    items = (rng.integers(1, 3, (users, each)).cumsum(axis=1) + rng.integers(0, ITEMS, (users, 1))) % ITEMS
    actions = FIRST_ACTION + (rng.random((users, each)) < 0.35)
    gaps = rng.integers(0, 10**10, (users, each))
    gaps[:, 0] = -1
    return sequences_of(items.tolist(), actions=actions.tolist(), gaps=gaps.tolist())


def judged(sequences: Sequences) -> Judged:
    return Judged(sequences, sequences.starts[:-1] + 1)


class Knowing:
    """Foretells what comes: all of it, or a part."""

    items = ITEMS

    def __init__(self, part: float = 1.0, certain: bool = False) -> None:
        self._part = part
        self._certain = certain

    def __call__(self, sequences: Sequences, rows: Int64, removed: Bool | None) -> Foretold:
        scores = np.zeros((len(rows), ITEMS), np.float32)
        knows = rows % 100 < 100 * self._part
        scores[np.flatnonzero(knows), sequences.item[rows[knows]]] = 1.0
        with np.errstate(divide="ignore"):
            chances = np.log(np.array([1.0, 0.0] if self._certain else [0.9, 0.1]))
        came = sequences.action[rows] - FIRST_ACTION
        return Foretold(scores, np.where(np.eye(2)[np.where(knows, came, 0)] > 0, *chances))


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    task, train = TASK, world(40, 0)
    return evaluate(Knowing(), task, train, judged(world(20, 1)), tuning=judged(world(10, 2)), told="A test.")


def test_whoever_knows_all_is_better_than_every_baseline(evaluation: Evaluation) -> None:
    items = (POPULARITY, MARKOV, COOCCURRENCE, ITEM_KNN)
    actions = (LAST_ACTION, "logistic regression", "random forest")
    assert tuple(evaluation.baselines) == (*items, *actions)
    assert evaluation.metrics["HR@10"] == Estimate(value=1.0, low=1.0, high=1.0)
    for name in items:
        assert evaluation.gains[f"HR@1 over {name}"].low > 0
    for name in actions:
        for metric in (ACTION_METRIC, LOG_LOSS, BRIER, MACRO_F1, WEIGHED_F1):
            assert evaluation.gains[f"{metric} over {name}"].low > 0, f"above zero is better: {metric}"
        assert evaluation.reliability[name].events
    assert set(required_gains()) <= set(evaluation.gains)


def test_gains_are_differences_of_the_figures(evaluation: Evaluation) -> None:
    for name, figures in evaluation.baselines.items():
        for metric, theirs in figures.items():
            sign = -1 if metric in (LOG_LOSS, BRIER, ECE) else 1
            difference = sign * (evaluation.metrics[metric].value - theirs.value)
            assert evaluation.gains[f"{metric} over {name}"].value == pytest.approx(difference)


def test_the_best_baseline_is_named_by_metric(evaluation: Evaluation) -> None:
    for metric, best in evaluation.best.items():
        told = {name: figures[metric].value for name, figures in evaluation.baselines.items() if metric in figures}
        assert told[best] == (min if metric == LOG_LOSS else max)(told.values())
    assert {"HR@10", "NDCG@10", LOG_LOSS, WEIGHED_F1} <= set(evaluation.best)


def test_the_evaluation_says_what_was_judged(evaluation: Evaluation) -> None:
    assert evaluation.protocol.startswith("A test. Event by event")
    assert "all 20 items" in evaluation.protocol
    assert "seen items removed" not in evaluation.protocol
    assert (evaluation.users, evaluation.events) == (20, 20 * 8)
    assert {"decayed co-occurrence", "item-kNN", "random forest"} <= set(evaluation.settings)
    for way, parts in evaluation.slices.items():
        assert sum(part.events for part in parts.values()) == 160, way
    assert set(evaluation.slices) == {
        f"next {what} by {way}" for what in ("item", "action") for way in ("events before", "time since the last event")
    }


def test_an_evaluation_survives_the_card(evaluation: Evaluation) -> None:
    assert Evaluation.model_validate_json(evaluation.model_dump_json()) == evaluation
    old = evaluation.model_dump(exclude={"best", "slices", "reliability", "settings"})
    assert Evaluation.model_validate(old).slices == {}, "a card from before can be read"


def test_the_report_has_every_candidate_and_a_picture(evaluation: Evaluation, tmp_path: object) -> None:
    text, data, picture = report.write(evaluation, tmp_path, "a title")  # type: ignore[arg-type]
    told = text.read_text()
    for name in (*evaluation.baselines, *evaluation.metrics, *evaluation.settings):
        assert name in told
    assert f"NDCG@10 over {evaluation.best['NDCG@10']} *" in told
    assert "next-action log-loss over random forest" in told
    assert "## Next action by events before" in told
    assert Evaluation.model_validate_json(data.read_text()) == evaluation
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert report.gains_table(evaluation).row_count >= 3


def test_folds_are_put_together(evaluation: Evaluation) -> None:
    task = TASK
    folds = [
        contest(Knowing(0.5), task, world(30, fold), judged(world(10 + fold, 7 + fold)), thorough=False)
        for fold in range(2)
    ]
    whole, single = conclude(folds, task, told="x"), conclude(folds[:1], task, told="x")
    assert (whole.users, whole.events) == (21, 21 * 8)
    assert set(whole.settings) == {"last action repeated, fold 0", "last action repeated, fold 1"}
    assert set(single.settings) == {"last action repeated"}
    parts = [conclude([fold], task, told="x") for fold in folds]
    for metric in ("HR@10", LOG_LOSS):
        mean = sum(part.metrics[metric].value * part.events for part in parts) / whole.events
        assert whole.metrics[metric].value == pytest.approx(mean)


def test_data_without_actions_are_judged_by_items_alone(tmp_path: object) -> None:
    task = task_of(ITEMS, exclude_seen=True)
    train = sequences_of([list(range(start, start + 6)) for start in range(12)])
    found = evaluate(DrawnScorer(ITEMS), task, train, judged(train))
    assert set(found.baselines) == {POPULARITY, MARKOV, COOCCURRENCE, ITEM_KNN}
    assert not any("action" in name for name in (*found.metrics, *found.gains))
    assert list(found.slices) == ["next item by events before"]
    assert "seen items removed" in found.protocol
    assert report.gains_table(found).row_count >= 2
    report.write(found, tmp_path, "items alone")  # type: ignore[arg-type]


def test_who_gives_no_chance_to_what_came_is_judged_without_log_loss(tmp_path: object) -> None:
    found = evaluate(Knowing(0.9, certain=True), TASK, world(30, 3), judged(world(20, 4)), thorough=False)
    assert LOG_LOSS not in found.metrics
    assert f"{LOG_LOSS} over {LAST_ACTION}" not in found.gains
    assert found.gains[f"{ACTION_METRIC} over {LAST_ACTION}"].low > 0
    assert all(np.isfinite(one.value) for one in found.metrics.values())
    report.write(found, tmp_path, "certain")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("split", "validation", "said"),
    [
        (UserSplit(judged_part=0.2), False, "The last 20% of every held-out user's events"),
        (UserSplit(), True, "validation user's events, on which the number of epochs was chosen"),
        (LeaveOneOut(kind="leave-one-out"), False, "Every user's held-out last event"),
        (LeaveOneOut(kind="leave-one-out"), True, "last event before the one held out, on which"),
        (Folds(kind="folds"), False, "Every event from the second on of users who were not trained on"),
    ],
)
def test_the_protocol_says_which_events_a_split_holds_out(split: object, validation: bool, said: str) -> None:
    assert said in what_is_judged(split, validation=validation)  # type: ignore[arg-type]
