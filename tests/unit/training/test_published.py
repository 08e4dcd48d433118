"""The published versions are those that the page speaks of, and can be served."""

from pathlib import Path

import pytest

from nextact_server.sequence.checkpoint import load_model

ROOT = Path(__file__).parents[3]
PUBLISHED = sorted(folder.parent for folder in (ROOT / "examples" / "accuracy").glob("*/1"))


def test_there_are_some() -> None:
    assert [folder.name for folder in PUBLISHED] == ["amazon-beauty", "lastfm", "ml-1m", "ml-1m-cold"]


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_a_published_version_loads_and_its_figures_are_told(folder: Path) -> None:
    _, card = load_model(folder / "1")
    page = (ROOT / "docs" / "accuracy.md").read_text(encoding="utf-8")
    assert card.evaluation is not None
    pairs = [card.validation, {name: figure.value for name, figure in card.evaluation.metrics.items()}]
    for figures in filter(None, pairs):
        assert " / ".join(f"{figures[name]:.4f}".removeprefix("0") for name in ("NDCG@10", "HR@10")) in page
    assert card.training_users is None, "who is in the data is nobody's business"
    assert card.state_bytes_per_user <= 2048
    assert sum(file.stat().st_size for file in (folder / "1").iterdir()) < 25_000_000
    for file in ("train.toml", "fit.csv", "evaluation.md", "evaluation.png"):
        assert (folder / file).is_file()
