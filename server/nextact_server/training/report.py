"""An evaluation for people: tables on the terminal, Markdown and a picture to keep, JSON for programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from rich.table import Table

from nextact_server.sequence.card import Estimate, Evaluation, Slice
from nextact_server.training.comparison import MODEL
from nextact_server.training.evaluate import required_gains
from nextact_server.training.plots import draw

PICTURE: Final = "evaluation.png"
_NOT_TOLD: Final = ("HR@1 ", "HR@5 ", "HR@20 ", "NDCG@5 ", "NDCG@20 ", "MRR")


def table(evaluation: Evaluation) -> Table:
    """Return the figures of the model and of each baseline with their intervals."""
    columns = _columns(evaluation)
    out = Table(title=f"{evaluation.events} events of {evaluation.users} users")
    out.add_column("metric")
    for name in columns:
        out.add_column(name, justify="right")
    for metric in evaluation.metrics:
        out.add_row(metric, *(_cell(column.get(metric)) for column in columns.values()))
    return out


def gains_table(evaluation: Evaluation) -> Table:
    """Return the paired differences that a version is judged by, and those to the best baselines."""
    out = Table(title="Paired differences")
    for name in ("difference", "estimate", "above 0"):
        out.add_column(name)
    best = (f"{metric} over {who}" for metric, who in evaluation.best.items())
    for name in dict.fromkeys((*required_gains(), *best)):
        if name in evaluation.gains:
            gain = evaluation.gains[name]
            out.add_row(name, _cell(gain), "yes" if gain.low > 0 else "no")
    return out


def markdown(evaluation: Evaluation, title: str) -> str:
    """Return the same as Markdown, with the parts of the events and the baselines' parameters."""
    columns = _columns(evaluation)
    lines = [
        f"# {title}",
        "",
        f"{evaluation.protocol}. {evaluation.events} events of {evaluation.users} users.",
        "",
        f"![The same as a picture]({PICTURE})",
        "",
        *_table(["metric", *columns]),
    ]
    lines += (
        _row([metric, *(_cell(column.get(metric)) for column in columns.values())]) for metric in evaluation.metrics
    )
    lines += ["", "Above zero the model is better; * is over the baseline that is best by that metric.", ""]
    lines += _table(["difference", "estimate"])
    best = {f"{metric} over {who}" for metric, who in evaluation.best.items()}
    for name, gain in evaluation.gains.items():
        if not name.startswith(_NOT_TOLD):
            lines.append(_row([f"{name} *" if name in best else name, _cell(gain)]))
    for way, parts in evaluation.slices.items():
        lines += ["", f"## {way.capitalize()}", "", *_slices(parts)]
    if evaluation.settings:
        lines += ["", "## Parameters chosen for the baselines", "", *_table(["baseline", "parameters"])]
        for name, chosen in evaluation.settings.items():
            lines.append(_row([name, ", ".join(f"{key} {value:g}" for key, value in chosen.items())]))
    return "\n".join(lines) + "\n"


def write(evaluation: Evaluation, folder: Path, title: str) -> tuple[Path, Path, Path]:
    """Write evaluation.md, evaluation.json and evaluation.png and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    text, data, picture = (folder / name for name in ("evaluation.md", "evaluation.json", PICTURE))
    text.write_text(markdown(evaluation, title), encoding="utf-8")
    data.write_text(evaluation.model_dump_json(indent=2) + "\n", encoding="utf-8")
    draw(evaluation, picture, title)
    return text, data, picture


def _columns(evaluation: Evaluation) -> dict[str, dict[str, Estimate]]:
    return {MODEL: evaluation.metrics, **evaluation.baselines}


def _slices(parts: Mapping[str, Slice]) -> Iterator[str]:
    first = next(iter(parts.values()))
    columns = [(who, metric) for metric in next(iter(first.figures.values())) for who in first.figures]
    yield from _table(["", "events", "users", *(f"{metric}, {who}" for who, metric in columns)])
    for name, part in parts.items():
        cells = (_cell(part.figures[who].get(metric)) for who, metric in columns)
        yield _row([name, str(part.events), str(part.users), *cells])


def _table(names: list[str]) -> list[str]:
    return [_row(names), "|" + "---|" * len(names)]


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(estimate: Estimate | None) -> str:
    return "" if estimate is None else f"{estimate.value:.4f} [{estimate.low:.4f}, {estimate.high:.4f}]"
