"""A version that was trained on a file foretells the same when it is served."""

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from support.gated_content import Gate, gated_encoder
from support.serving import SHIPPED_MODELS, LoopThread, serving, settings_for
from typer.testing import CliRunner

from nextact import Client
from nextact_server import through_server
from nextact_server.cli import app
from nextact_server.through_server import Disagreement, ServerFailed, compare, link_models
from nextact_server.training.agreement import Served
from nextact_server.training.config import ConfigError
from nextact_server.training.content import ContentStore, Vectors
from nextact_server.training.datasets import DataError
from nextact_server.training.run import run_training

QUIET = Console(quiet=True)
USERS = 12
CONFIG = """
exclude_seen = {exclude_seen}
[data]
kind = "sequences"
file = "{file}"
{more}
[split]
kind = "leave-one-out"
[model]
item_dim = 16
model_dim = 16
hidden_dim = 24
[fit]
epochs = 1
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


def configured(folder: Path, name: str, *, exclude_seen: bool = False, file: str = "walks.txt", more: str = "") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(CONFIG.format(exclude_seen=str(exclude_seen).lower(), file=file, more=more))
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """People who walk a circle of 40 items, now and then back, one of them for more steps than a Predict takes."""
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    walks = [
        rng.integers(40) + np.cumsum(rng.choice([1, 1, 1, -2], steps))
        for steps in [*rng.integers(3, 30, USERS - 1).tolist(), 1100]
    ]
    lines = (" ".join([f"u{user}", *(f"i{at % 40}" for at in walk)]) for user, walk in enumerate(walks))
    (folder / "walks.txt").write_text("\n".join(lines) + "\n")
    for name, exclude_seen in (("all", False), ("unseen", True)):
        config = configured(folder, name, exclude_seen=exclude_seen)
        run_training(config, folder / name, logs_dir=folder / "logs", store=content_store(folder), console=QUIET)
    return folder


@pytest.fixture
def in_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, loop: LoopThread, data_dir: Path, gate: Gate
) -> dict[Path, Path]:
    """Servers start in this process, which takes a moment; a version named here is served by another one's files."""
    instead: dict[Path, Path] = {}

    @contextmanager
    def served(version_dir: Path, models: Path) -> Iterator[Client]:
        link_models(tmp_path / "models", instead.get(version_dir, version_dir), models)
        settings = settings_for(tmp_path / "models", data_dir, "native")
        with serving(loop, settings, None, gated_encoder(gate)) as running, running.client() as client:
            yield client

    monkeypatch.setattr(through_server, "serving", served)
    return instead


def checked(world: Path, name: str, config: Path, **options: Any) -> int:
    options = {"console": QUIET, "store": content_store(world), **options}
    return compare(world / name, config, SHIPPED_MODELS, **options)


@pytest.mark.parametrize("name", ["all", "unseen"])
@pytest.mark.parametrize("candidates", [20_000, 7])
def test_the_served_version_is_the_one_evaluated(
    world: Path, in_process: dict[Path, Path], monkeypatch: pytest.MonkeyPatch, name: str, candidates: int
) -> None:
    monkeypatch.setattr(through_server, "_CANDIDATES", candidates)
    assert checked(world, name, world / f"{name}.toml") == USERS


def test_another_version_is_told_from_it(world: Path, in_process: dict[Path, Path]) -> None:
    in_process[world / "unseen"] = world / "all"
    said = io.StringIO()
    console = Console(file=said, width=1000)
    with pytest.raises(Disagreement, match=r"^7 of 7 users are told otherwise; user u\d+: Rank has 40 items, offline"):
        checked(world, "unseen", world / "unseen.toml", most_users=7, console=console)
    assert "0 of 7 users agree" in said.getvalue()
    assert said.getvalue().count("\nuser u") == 5, "the first few are told"


def first_raised(scores: Mapping[str, float], by: float) -> dict[str, float]:
    first = next(iter(scores))
    return {**scores, first: scores[first] + by}


def turned(items: Mapping[str, float]) -> dict[str, float]:
    return dict(reversed(items.items()))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda top, ranked: Served(top, first_raised(ranked, 2e-4)), r"item i\d+ has score .*, offline"),
        (lambda top, ranked: Served(top, first_raised(ranked, np.nan)), r"item i\d+ has score nan, offline"),
        (lambda top, ranked: Served(first_raised(top, 2e-4), ranked), r"item i\d+ has score .*, offline"),
        (lambda top, ranked: Served(turned(top), ranked), r"the top items are i\d+, .*; offline i\d+, "),
        (lambda top, ranked: Served({}, ranked), r"the top items are ; offline i\d+, "),
        (lambda top, ranked: Served({**turned(top), "other": 0.0}, ranked), r"the top items are .*, other; offline"),
        (lambda top, ranked: Served(top, turned(ranked)), r"item i\d+ has rank \d+, offline \d+ to \d+"),
        (lambda top, ranked: Served(top, {**ranked, "other": 0.0}), r"Rank has 41 items, offline there are 40"),
    ],
)
def test_a_wrong_answer_is_noticed(
    world: Path, in_process: dict[Path, Path], monkeypatch: pytest.MonkeyPatch, change: Any, told: str
) -> None:
    ask = through_server._ask

    def wrong(*asked: Any) -> Served:
        right = ask(*asked)
        return change(right.top, right.ranked)  # type: ignore[no-any-return]

    monkeypatch.setattr(through_server, "_ask", wrong)
    with pytest.raises(Disagreement, match=rf"2 of 2 users are told otherwise; user u\d+: {told}"):
        checked(world, "all", world / "all.toml", most_users=2)


def test_the_command_starts_a_server_and_tells_how_many_agree(
    world: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEXTACT_DATA_DIR", str(data_dir))
    arguments = [str(world / "all"), "--config", str(world / "all.toml"), "--models", str(SHIPPED_MODELS)]
    result = CliRunner().invoke(app, ["evaluate", *arguments, "--through-server", "--most-users", "3"])
    assert result.exit_code == 0, result.output
    assert "3 of 3 users agree" in result.output
    (world / "all" / "model.safetensors").rename(world / "all" / "away")
    try:
        assert CliRunner().invoke(app, ["evaluate", *arguments, "--through-server"]).exit_code == 1
    finally:
        (world / "all" / "away").rename(world / "all" / "model.safetensors")
    assert CliRunner().invoke(app, ["evaluate", *arguments, "--most-users", "3"]).exit_code == 2


def test_a_repository_without_encoders_is_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ServerFailed, match=r"has no image_encoder, which a server needs"):
        compare(world / "all", world / "all.toml", tmp_path, store=content_store(world), console=QUIET)


def test_what_no_server_can_foretell_is_refused(world: Path) -> None:
    (world / "titles.dat").write_text("i1::A title (1999)::Drama\n", encoding="latin-1")
    (world / "attributes.json").write_text(json.dumps({"i1": [3, 4]}))
    (world / "others.txt").write_text("u1 i1 i2 i3 i4\nu2 i1 i2 i3\n")
    ones = ContentStore(world / "t.npz", lambda: lambda texts: np.ones((len(texts), 384), np.float32), 384, "ones")
    with pytest.raises(DataError, match=r"others.toml: the data's sha256 is"):
        checked(world, "all", configured(world, "others", file="others.txt"))
    with pytest.raises(DataError, match=r"other.toml: exclude_seen is True, the version is served with False"):
        checked(world, "all", configured(world, "other", exclude_seen=True))
    folds = configured(world, "folds")
    folds.write_text(folds.read_text().replace("leave-one-out", "folds"))
    with pytest.raises(ConfigError, match=r"folds.toml: split.kind is 'folds'"):
        checked(world, "all", folds)
    for name, wanted in (("titles", "items or events have texts"), ("attributes", "makes no content of attributes")):
        suffix = "dat" if name == "titles" else "json"
        config = configured(world, f"with-{name}", more=f'{name} = "{name}.{suffix}"')
        with pytest.raises(DataError, match=rf"with-{name}.toml: .*{wanted}"):
            checked(world, "all", config, store=ones)
