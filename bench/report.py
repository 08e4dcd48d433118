"""The report: a table on the terminal, JSON for later comparison, Markdown for people."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.figures import Figure, number

__all__ = ["FORMAT", "print_table", "write_json", "write_markdown"]

FORMAT = 1
"""Version of the JSON's layout."""

COLORS = {"ok": "green", "short": "red", "": ""}


def print_table(console: Console, figures: Sequence[Figure]) -> None:
    """All figures beside their targets, then what is short."""
    table = Table(title="nextact, measured", title_justify="left", expand=False)
    for name in ("part", "figure", "unit"):
        table.add_column(name)
    for name in ("target", "median", "min..max", ""):
        table.add_column(name, justify="right")
    table.add_column("how", overflow="fold", style="dim")
    last = None
    for figure in figures:
        if last is not None and figure.part != last:
            table.add_section()
        color = COLORS[figure.verdict]
        cells = _cells(figure)
        verdict = f"[{color}]{figure.verdict}[/]" if color else ""
        table.add_row("" if figure.part == last else figure.part, *cells, verdict, figure.note)
        last = figure.part
    console.print(table)
    judged = [figure for figure in figures if figure.verdict]
    short = [figure for figure in judged if figure.verdict == "short"]
    console.print(f"{len(judged) - len(short)} of {len(judged)} targets met.")
    for figure in short:
        _, unit, target, median, _ = _cells(figure)
        console.print(f"  short: {figure.part}: {figure.name}: {median} {unit}, wanted {target}")


def write_json(path: Path, machine: dict[str, Any], run: dict[str, Any], figures: Sequence[Figure]) -> None:
    """Everything measured, every sample included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"format": FORMAT, "machine": machine, "run": run, "figures": [figure.as_json() for figure in figures]}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def write_markdown(path: Path, machine: dict[str, Any], run: dict[str, Any], figures: Sequence[Figure]) -> None:
    """The same as a document."""
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    lines = ["# nextact, measured", ""]
    lines.append(
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}; "
        f"load before the run {machine['load_before']}."
    )
    lines.append(f"Python {machine['python']}, {packages}.")
    lines.append(
        f"{run['date']}, {run['rounds']} rounds in turn, {run['seconds']:.0f} s in all, model repository "
        f"{run['repository']}. Medians; ratios are taken round by round."
    )
    last = None
    for figure in figures:
        if figure.part != last:
            lines += ["", f"## {figure.part}", "", "| figure | unit | target | median | min..max | | how |"]
            lines += ["|---|---|---:|---:|---:|---|---|"]
            last = figure.part
        cells = [*_cells(figure), figure.verdict, figure.note]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _cells(figure: Figure) -> list[str]:
    """Name, unit, target, median and spread as text."""
    target = "" if figure.target is None else str(figure.target)
    if figure.sample is None:
        return [figure.name, figure.unit, target, "-", ""]
    low, high = figure.sample.low, figure.sample.high
    spread = f"{number(low)}..{number(high)}" if len(figure.sample.values) > 1 else ""
    return [figure.name, figure.unit, target, number(figure.sample.median), spread]
