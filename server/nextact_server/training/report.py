"""An evaluation for people: a table on the terminal, Markdown to keep, JSON for programs."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from rich.table import Table

from nextact_server.sequence.card import Estimate, Evaluation
from nextact_server.training.evaluate import ACTION_METRIC, required_gains

MODEL: Final = "model"


def table(evaluation: Evaluation) -> Table:
    """Return the figures of the model and of each baseline with their intervals."""
    columns = _columns(evaluation)
    out = Table(title=f"{evaluation.events} events of {evaluation.users} held-out users")
    out.add_column("metric")
    for name in columns:
        out.add_column(name, justify="right")
    for metric in evaluation.metrics:
        out.add_row(metric, *(_cell(column.get(metric)) for column in columns.values()))
    return out


def gains_table(evaluation: Evaluation) -> Table:
    """Return the paired differences that a version is judged by."""
    out = Table(title="Paired differences")
    for name in ("difference", "estimate", "above 0"):
        out.add_column(name)
    for name in required_gains():
        gain = evaluation.gains[name]
        out.add_row(name, _cell(gain), "yes" if gain.low > 0 else "no")
    return out


def markdown(evaluation: Evaluation, title: str) -> str:
    """Return the same as Markdown."""
    columns = _columns(evaluation)
    lines = [
        f"# {title}",
        "",
        f"{evaluation.protocol}. {evaluation.events} events of {evaluation.users} users.",
        "",
        "| metric | " + " | ".join(columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    lines += [
        f"| {metric} | " + " | ".join(_cell(column.get(metric)) for column in columns.values()) + " |"
        for metric in evaluation.metrics
    ]
    lines += ["", "| difference | estimate |", "|---|---|"]
    lines += [f"| {name} | {_cell(gain)} |" for name, gain in evaluation.gains.items() if _told(name)]
    return "\n".join(lines) + "\n"


def write(evaluation: Evaluation, folder: Path, title: str) -> tuple[Path, Path]:
    """Write evaluation.md and evaluation.json and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    text, data = folder / "evaluation.md", folder / "evaluation.json"
    text.write_text(markdown(evaluation, title), encoding="utf-8")
    data.write_text(evaluation.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return text, data


def _columns(evaluation: Evaluation) -> dict[str, dict[str, Estimate]]:
    return {MODEL: evaluation.metrics, **evaluation.baselines}


def _told(gain: str) -> bool:
    return gain.startswith(("HR@10 ", "NDCG@10 ", ACTION_METRIC))


def _cell(estimate: Estimate | None) -> str:
    return "" if estimate is None else f"{estimate.value:.4f} [{estimate.low:.4f}, {estimate.high:.4f}]"
