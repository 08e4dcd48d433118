"""A version that was trained on a file foretells the same when it is served."""

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from support.serving import SHIPPED_MODELS

from nextact_server.through_server import Disagreement, compare
from nextact_server.training.content import ContentStore, Vectors
from nextact_server.training.datasets import DataError
from nextact_server.training.run import run_training

QUIET = Console(quiet=True)
CONFIG = """
exclude_seen = {exclude_seen}
[data]
kind = "sequences"
file = "walks.txt"
{titles}
[split]
kind = "leave-one-out"
[model]
item_dim = 16
model_dim = 16
hidden_dim = 24
[fit]
epochs = 2
average = 0.5
learning_rate = 0.02
[prior]
weight = 0.3
reach = 3
"""


def content_store(folder: Path) -> ContentStore:
    def encoded(texts: object) -> Vectors:
        raise AssertionError(f"nothing is to be encoded here, but {texts}")

    return ContentStore(folder / "texts.npz", lambda: encoded, 384, "none")


def configured(folder: Path, name: str, *, exclude_seen: bool, titles: str = "") -> Path:
    path = folder / name
    path.write_text(CONFIG.format(exclude_seen=str(exclude_seen).lower(), titles=titles))
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """People who walk a circle of 40 items, now and then back, one of them for more steps than a Predict takes."""
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    walks = [
        rng.integers(40) + np.cumsum(rng.choice([1, 1, 1, -2], steps))
        for steps in [*rng.integers(3, 30, 20).tolist(), 1100]
    ]
    lines = (" ".join([f"u{user}", *(f"i{at % 40}" for at in walk)]) for user, walk in enumerate(walks))
    (folder / "walks.txt").write_text("\n".join(lines) + "\n")
    for name, exclude_seen in (("all", False), ("unseen", True)):
        config = configured(folder, f"{name}.toml", exclude_seen=exclude_seen)
        run_training(config, folder / name, logs_dir=folder / "logs", store=content_store(folder), console=QUIET)
    return folder


@pytest.mark.parametrize("name", ["all", "unseen"])
def test_the_served_version_is_the_one_evaluated(world: Path, name: str) -> None:
    config = world / f"{name}.toml"
    checked = compare(world / name, config, SHIPPED_MODELS, store=content_store(world), console=QUIET)
    assert checked == 21
    if name == "all":
        other = configured(world, "other.toml", exclude_seen=True)
        with pytest.raises(Disagreement, match=r"\d+ of 5 users are told otherwise; user u\d+: "):
            compare(world / name, other, SHIPPED_MODELS, most_users=5, store=content_store(world), console=QUIET)


def test_a_version_that_reads_content_is_refused(world: Path) -> None:
    (world / "titles.dat").write_text("i1::A title (1999)::Drama\n", encoding="latin-1")
    config = configured(world, "titled.toml", exclude_seen=False, titles='titles = "titles.dat"')
    store = ContentStore(world / "t.npz", lambda: lambda texts: np.ones((len(texts), 384), np.float32), 384, "ones")
    with pytest.raises(DataError, match=r"titled.toml: items or events have content"):
        compare(world / "all", config, SHIPPED_MODELS, store=store, console=QUIET)
