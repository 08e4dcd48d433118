"""Logistic regression and random forest of scikit-learn, which nothing else here needs."""

from __future__ import annotations

from typing import Any, Final

from nextact_server.training.action_baselines import ActionRival, learned
from nextact_server.training.sequences import Sequences

LOGISTIC: Final = "logistic regression"
FOREST: Final = "random forest"

_TREES: Final = 100


class MissingClassifiers(ImportError):
    """scikit-learn is not installed."""


def classifiers(train: Sequences, actions: int) -> dict[str, ActionRival]:
    """Fit both on the training events, tuned inside of them. Raises MissingClassifiers without scikit-learn."""
    try:
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise MissingClassifiers(
            "the baselines of the next action need scikit-learn: pip install scikit-learn"
        ) from error

    def logistic(strength: float) -> Any:
        return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))

    def forest(leaf: float) -> Any:
        return RandomForestClassifier(_TREES, min_samples_leaf=int(leaf), random_state=0, n_jobs=1)

    return {
        LOGISTIC: learned(train, actions, logistic, (0.01, 0.1, 1.0, 10.0), "C"),
        FOREST: learned(train, actions, forest, (3, 10, 30, 100), "min_samples_leaf"),
    }
