"""How good what was served turned out to be, by the same judgement that training ends with."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from demo.traffic import Expected
from nextact_server.sequence.card import Evaluation
from nextact_server.training.evaluate import evaluate
from nextact_server.training.prepare import Prepared
from nextact_server.training.scoring import Foretold
from nextact_server.training.sequences import Bool, Int64, Sequences


class UnknownItem(LookupError):
    """The server holds items that the baselines do not know of, so they cannot be compared."""


class ServedScorer:
    """What was served before each event, as a `Scorer`: ten items have scores, the others are out of the running."""

    def __init__(self, data: Prepared, served: Mapping[int, Expected]) -> None:
        """`served` maps a row of the held-out events to what was expected before it."""
        self._served = served
        self._row = {item: row for row, item in enumerate(data.task.catalogue.ids)}
        self._actions = data.task.actions

    @property
    def items(self) -> int:
        """See `nextact_server.training.scoring.Scorer`."""
        return len(self._row)

    def __call__(self, sequences: Sequences, rows: Int64, removed: Bool | None) -> Foretold:  # noqa: ARG002  # of Scorer
        """See `nextact_server.training.scoring.Scorer`; what is removed was not served either."""
        scores = np.full((len(rows), len(self._row)), -np.inf, np.float32)
        actions = np.full((len(rows), len(self._actions)), -np.inf)
        for at, row in enumerate(rows.tolist()):
            expected = self._served[row]
            try:
                scores[at, [self._row[item] for item in expected.items]] = expected.scores
            except KeyError as error:
                raise UnknownItem(f"the server ranked item {error}, which is none of the demo's") from error
            actions[at, self._actions.index(expected.action)] = 0.0
        return Foretold(scores, actions)


def judge_served(data: Prepared, served: Mapping[int, Expected]) -> Evaluation:
    """Judges what was served beside the count baselines, on the same events."""
    assert data.held_out is not None
    return evaluate(ServedScorer(data, served), data.task, data.train, data.held_out, thorough=False)
