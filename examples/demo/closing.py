"""The figures at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from rich.table import Table

from demo.gauges import Gauges
from demo.traffic import Outcome
from nextact_server.sequence.card import Estimate, Evaluation, ModelCard
from nextact_server.training.evaluate import ACTION_METRIC, LAST_ACTION, MARKOV, POPULARITY, required_gains

_SHOWN: Final = ("HR@10", "NDCG@10", ACTION_METRIC)
_UNITS: Final = {"next_action": "events", "text_encoder": "texts", "image_encoder": "images"}


@dataclass(frozen=True, slots=True)
class Speed:
    """Events and the seconds they took."""

    events: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.events / self.seconds:,.0f} events/s ({self.events:,} events in {self.seconds:.2f} s)"


def quality(evaluation: Evaluation) -> Table:
    """What was served before each event came, beside the baselines on the same events."""
    title = f"Served before each of {evaluation.events:,} events of {evaluation.users} users came [95 % intervals]"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    columns = {"nextact": evaluation.metrics, **evaluation.baselines}
    for name in ("nextact", POPULARITY, MARKOV, LAST_ACTION):
        table.add_column(name, justify="right")
    for metric in _SHOWN:
        cells = (columns[name].get(metric) for name in ("nextact", POPULARITY, MARKOV, LAST_ACTION))
        table.add_row(metric, *("" if cell is None else _estimate(cell) for cell in cells))
    return table


def gains(evaluation: Evaluation) -> Table:
    """The paired differences, and whether their intervals lie above zero."""
    table = Table(title="Differences, paired by event, resampled by user", title_justify="left")
    for name in ("", "difference", "above 0"):
        table.add_column(name)
    for name in required_gains():
        gain = evaluation.gains[name]
        table.add_row(name, _estimate(gain), "yes" if gain.low > 0 else "no")
    return table


def beside_the_card(served: Evaluation, card: ModelCard) -> str:
    """Whether serving foretold as well as the model did when it was evaluated after its training."""
    if card.evaluation is None:
        return "the model card holds no evaluation to compare with"
    pairs = {name: (served.metrics[name].value, card.evaluation.metrics[name].value) for name in _SHOWN}
    figures = ", ".join(f"{name} {ours:.4f} / {theirs:.4f}" for name, (ours, theirs) in pairs.items())
    return f"served / evaluated offline by the model card: {figures}"


def speed(
    outcomes: Sequence[Outcome],
    stream: Speed,
    live: Speed | None,
    workers: int,
    whole: Gauges | None,
    now: Gauges | None,
) -> Table:
    """How fast it was; `whole` counts since the server's start, `now` during the live traffic alone."""
    title = "Speed, as the callers see it, who work on the same cores"
    table = Table(title=title, title_justify="left", show_header=False)
    for name, paced in (("Predict, at reading speed", True), (f"Predict, {workers} callers at full speed", False)):
        seconds = [outcome.seconds for outcome in outcomes if outcome.paced is paced]
        if seconds:
            middle, high = np.percentile(np.array(seconds) * 1e3, (50, 99))
            table.add_row(name, f"p50 {middle:.2f} ms, p99 {high:.2f} ms ({len(seconds):,} calls)")
    if live is not None:
        table.add_row("live, one Predict per event", str(live))
    table.add_row("replay, StreamEvents with Arrow", str(stream))
    if whole is not None and whole.hit_rate is not None:
        lookups = int(sum(whole.lookups.values()))
        table.add_row("content cache", f"{whole.hit_rate:.1%} of {lookups:,} texts and images were known")
    for when, gauges in (("", whole), (", live traffic alone", now)):
        for model, unit in _UNITS.items():
            if gauges is not None and (count := gauges.batches.get(model)):
                # The next-action model counts its batches' cost in events, the encoders their items one by one.
                size = (gauges.cost if model == "next_action" else gauges.items)[model] / count
                table.add_row(f"{model}{when}", f"{count:,.0f} batches of {size:.1f} {unit} on average")
    return table


def _estimate(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
