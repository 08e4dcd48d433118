"""The benchmark's arithmetic."""

import json
from pathlib import Path

import pytest

from bench.figures import Figure, Target, alternate, percentile, ratios, sample
from bench.report import write_json, write_markdown

MACHINE = {
    "cpu": "some | CPU",
    "cores": 2,
    "memory_gib": 8,
    "system": "Linux",
    "python": "3.11",
    "load_before": [0.1],
    "packages": {"torch": "2"},
}
RUN = {"date": "2026-01-01", "rounds": 3, "seconds": 1.0, "repository": "here"}


def test_things_are_measured_in_turn_and_the_warm_up_does_not_count() -> None:
    order: list[str] = []

    def measure(name: str) -> float:
        order.append(name)
        return float(len(order))

    a, b = alternate(2, [lambda: measure("a"), lambda: measure("b")])
    assert order == ["a", "b"] * 3
    assert a.values == (3.0, 5.0)
    assert b.values == (4.0, 6.0)


def test_ratios_are_taken_round_by_round_not_between_medians() -> None:
    ratio = ratios(sample([10, 40, 30]), sample([10, 20, 10]))
    assert ratio.values == (1.0, 2.0, 3.0)
    assert (ratio.median, ratio.low, ratio.high) == (2.0, 1.0, 3.0)


def test_rounds_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="2 rounds against 1"):
        ratios(sample([1, 2]), sample([1]))


@pytest.mark.parametrize(
    ("target", "measured", "verdict"),
    [
        (Target("at least", 0.9), 0.9, "ok"),
        (Target("at least", 0.9), 0.89, "short"),
        (Target("at most", 1.1), 1.1, "ok"),
        (Target("at most", 1.1), 1.11, "short"),
        (Target("above", 1.0), 1.0, "short"),
        (Target("above", 1.0), 1.01, "ok"),
    ],
)
def test_a_target_is_judged_at_the_median(target: Target, measured: float, verdict: str) -> None:
    assert Figure("part", "name", "ratio", sample([measured, 0, 100]), target).verdict == verdict


def test_what_could_not_be_measured_is_neither_ok_nor_short() -> None:
    assert Figure("part", "name", "ratio", None, Target("at least", 1)).verdict == ""


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [float(value) for value in range(1, 101)]
    assert percentile(values, 50) == 50
    assert percentile(values, 99) == 99
    assert percentile(values, 100) == 100
    assert percentile([7.0], 1) == 7


def test_the_json_holds_every_sample_and_the_verdict(tmp_path: Path) -> None:
    path = tmp_path / "results" / "run.json"
    write_json(path, MACHINE, RUN, [Figure("part", "name", "ms", sample([3, 1, 2]), Target("at most", 5))])
    figure = json.loads(path.read_text(encoding="utf-8"))["figures"][0]
    assert figure["sample"]["values"] == [3, 1, 2]
    assert (figure["median"], figure["verdict"]) == (2, "ok")


def test_the_document_keeps_its_columns_whatever_a_note_says(tmp_path: Path) -> None:
    path = tmp_path / "run.md"
    write_markdown(path, MACHINE, RUN, [Figure("part", "name", "ms", None, note="a | b")])
    row = next(line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("| name"))
    assert row.replace("\\|", "").count("|") == 8
