"""An evaluation as one picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nextact_server.sequence.card import Estimate, Evaluation, Slice
from nextact_server.training.action_metrics import ACCURACY, BRIER, ECE, LOG_LOSS, MACRO_F1, WEIGHED_F1
from nextact_server.training.comparison import MODEL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS: Final = ("#1f4e79", "#c55a11", "#6a9f58", "#8c6bb1", "#7f7f7f", "#b8860b", "#2a9d8f", "#c2185b")
_WIDTH, _HEIGHT = 7.0, 3.4


class MissingPlots(ImportError):
    """matplotlib is not installed."""


def draw(evaluation: Evaluation, path: Path, title: str) -> None:
    """Write a PNG: the model beside the baselines, parts of the events, calibration; bars are 95 % intervals.

    Raises MissingPlots without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise MissingPlots("the picture of an evaluation needs matplotlib: pip install matplotlib") from error

    panels = _panels(evaluation)
    rows = max(1, -(-len(panels) // 2))
    figure = Figure(figsize=(2 * _WIDTH, rows * _HEIGHT + 0.6), layout=ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.1))
    figure.suptitle(f"{title}: {evaluation.events:,} events of {evaluation.users:,} users", fontsize=13)
    for number, panel in enumerate(panels, start=1):
        panel(figure.add_subplot(rows, 2, number))
    figure.savefig(path, dpi=110)


def _panels(evaluation: Evaluation) -> list[Callable[[Axes], None]]:
    colours = _colours(evaluation)
    columns = {MODEL: evaluation.metrics, **evaluation.baselines}

    def bars(*metrics: str) -> Callable[[Axes], None]:
        return lambda axes: _bars(axes, columns, metrics, colours)

    def parts(way: str, metric: str) -> Callable[[Axes], None]:
        return lambda axes: _parts(axes, way, evaluation.slices[way], metric, colours)

    wanted: list[tuple[str, ...]] = [
        ("HR@10", "NDCG@10"),
        (LOG_LOSS, BRIER),
        (ACCURACY, WEIGHED_F1 if WEIGHED_F1 in evaluation.metrics else MACRO_F1),
    ]
    panels = [bars(*metrics) for metrics in wanted if metrics[0] in evaluation.metrics]
    if evaluation.reliability:
        panels.append(lambda axes: _reliability(axes, evaluation, colours))
    for way, cut in evaluation.slices.items():
        figures = next(iter(cut.values())).figures[MODEL]
        metric = next(name for name in ("NDCG@10", LOG_LOSS, ACCURACY) if name in figures)
        panels.append(parts(way, metric))
    return panels


def _colours(evaluation: Evaluation) -> dict[str, str]:
    names = (MODEL, *evaluation.baselines)
    return {name: _COLOURS[at % len(_COLOURS)] for at, name in enumerate(names)}


def _bars(
    axes: Axes, columns: Mapping[str, Mapping[str, Estimate]], metrics: tuple[str, ...], colours: Mapping[str, str]
) -> None:
    """Draw one group of bars for each metric, one bar for each candidate that has it."""
    shown = [who for who in columns if any(metric in columns[who] for metric in metrics)]
    for at, who in enumerate(shown):
        places = [group * (len(shown) + 1) + at for group, metric in enumerate(metrics) if metric in columns[who]]
        told = [columns[who][metric] for metric in metrics if metric in columns[who]]
        axes.bar(places, [one.value for one in told], color=colours[who], label=who, width=0.9)
        axes.errorbar(places, [one.value for one in told], yerr=_interval(told), fmt="none", ecolor="black", capsize=3)
        for place, one in zip(places, told, strict=True):
            axes.annotate(
                f"{one.value:.3f}",
                (place, one.high),
                ha="center",
                va="bottom",
                fontsize=8,
                xytext=(0, 2),
                textcoords="offset points",
            )
    axes.set_xticks([group * (len(shown) + 1) + (len(shown) - 1) / 2 for group in range(len(metrics))], metrics)
    axes.margins(y=0.15)
    axes.legend(fontsize=8, loc="upper right")
    _plain(axes)


def _parts(axes: Axes, way: str, cut: Mapping[str, Slice], metric: str, colours: Mapping[str, str]) -> None:
    """Draw each candidate's figure in each part of the events."""
    candidates = list(next(iter(cut.values())).figures)
    for at, who in enumerate(candidates):
        told = [part.figures[who][metric] for part in cut.values()]
        places = [number + (at - (len(candidates) - 1) / 2) * 0.12 for number in range(len(told))]
        axes.errorbar(
            places,
            [one.value for one in told],
            yerr=_interval(told),
            fmt="o-",
            color=colours[who],
            label=who,
            capsize=3,
        )
    axes.set_xticks(range(len(cut)), [f"{name}\n{part.events:,}" for name, part in cut.items()], fontsize=8)
    axes.set_title(f"{metric} by {way.partition(' by ')[2]}, number of events below", fontsize=10)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
    _plain(axes)


def _reliability(axes: Axes, evaluation: Evaluation, colours: Mapping[str, str]) -> None:
    """Draw how often the likeliest action came against the probability that it was given."""
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":")
    columns = {MODEL: evaluation.metrics, **evaluation.baselines}
    for who, bins in evaluation.reliability.items():
        label = f"{who} (ECE {columns[who][ECE].value:.3f})"
        axes.plot(bins.confidence, bins.came, "o-", markersize=4, color=colours[who], label=label)
    axes.set_xlabel("probability of the likeliest action", fontsize=9)
    axes.set_ylabel("how often it came", fontsize=9)
    axes.set_title("Calibration of the next action, bins of equal mass", fontsize=10)
    axes.legend(fontsize=8)
    _plain(axes)


def _interval(told: list[Estimate]) -> list[list[float]]:
    """Return how far each interval reaches below and above; a bias can put the value itself outside."""
    below = [max(0.0, one.value - one.low) for one in told]
    return [below, [max(0.0, one.high - one.value) for one in told]]


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", linewidth=0.4, alpha=0.6)
    axes.set_axisbelow(True)
