"""The second job of a data scientist: evaluate a version; and what training shares with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from rich.console import Console

from nextact_server.sequence.card import Evaluation
from nextact_server.sequence.checkpoint import load_model
from nextact_server.training import report
from nextact_server.training.config import TrainingConfig, load_config
from nextact_server.training.content import ContentStore
from nextact_server.training.data_config import Folds
from nextact_server.training.datasets import DataError
from nextact_server.training.evaluate import Contest, conclude, contest, evaluate, what_is_judged
from nextact_server.training.prepare import Prepared, load_dataset, prepare
from nextact_server.training.scoring import ModelScorer, Scorer, vocabulary_rows

DEFAULT_CACHE: Final = Path("build/training/texts.npz")


def run_evaluation(
    version_dir: Path,
    config_path: Path,
    *,
    out_dir: Path = Path("build/evaluation"),
    targets: Path | None = None,
    store: ContentStore | None = None,
    console: Console | None = None,
) -> Evaluation:
    """Evaluate a version on what its split holds out, and on the same events the baselines.

    The data and the split are those of the TOML file. `targets`, lines of `user item`, are what came after the end of
    the data: each is then foretold from all of its user's events; only for data of kind "sequences". Prints tables,
    writes evaluation.md, evaluation.json and evaluation.png to `out_dir`. Raises ConfigError, and DataError if the data
    or the held-out users are not those of the card.
    """
    console = console or Console()
    config = load_config(config_path, targets)
    dataset = load_dataset(config, config_path.parent)
    store = store or ContentStore(DEFAULT_CACHE)
    contests = []
    for fold in folds(config):
        folder = version_dir_of(version_dir, config, fold)
        model, card = load_model(folder)
        dataset.check_sha256(card.data.sha256, config_path)
        data = prepare(config, dataset, store, fold=fold)
        if data.excluded_users != card.excluded_users:
            raise DataError(f"{config_path}: split.excluded gives other users than those {folder} was kept from")
        vocab = vocabulary_rows(data.task.catalogue, card.items)
        scorer = ModelScorer(model, data.task.catalogue, vocab)
        contests.append(contest_of(scorer, data))
    evaluation = conclusion(contests, config, data)
    if evaluation is None:
        raise DataError(f"{config_path}: the split leaves no event to evaluate on")
    tell(console, evaluation, scorer, config, data, out_dir)
    return evaluation


def folds(config: TrainingConfig) -> range:
    """Return the numbers of the folds that a configuration makes versions of; 0 alone where it has none."""
    return range(config.split.folds if isinstance(config.split, Folds) else 1)


def version_dir_of(folder: Path, config: TrainingConfig, fold: int) -> Path:
    """Return where the version of a fold lies under the folder of all."""
    return folder / f"fold-{fold}" if isinstance(config.split, Folds) else folder


def contest_of(scorer: Scorer, data: Prepared) -> Contest | None:
    """Judge on what was held out; else on what validated, if nothing was ever trained on that."""
    if data.held_out is not None:
        # Counting knows nothing of cold items, so there is nothing to tune on them.
        thorough = data.cold is None
        return contest(scorer, data.task, data.train, data.held_out, tuning=data.validation, thorough=thorough)
    if data.validation is None or data.train is not data.first_fit:
        return None
    return contest(scorer, data.task, data.train, data.validation)


def conclusion(contests: Sequence[Contest | None], config: TrainingConfig, data: Prepared) -> Evaluation | None:
    """Put the folds' contests together; `data` is one of theirs."""
    held = [one for one in contests if one is not None]
    if not held:
        return None
    return conclude(held, data.task, told=what_is_judged(config.split, validation=data.held_out is None))


def tell(
    console: Console, evaluation: Evaluation, scorer: Scorer, config: TrainingConfig, data: Prepared, folder: Path
) -> None:
    """Print tables and write reports to `folder`.

    Of events on items that were kept apart from training there is a second report, ranked among such items alone, in
    the folder's "among-cold".
    """
    title = f"{config.name}, version {config.version}"
    _write(console, evaluation, folder, title)
    if data.cold is None or data.held_out is None:
        return
    narrowed = replace(data.held_out, offered=data.cold)
    told = f"{what_is_judged(config.split)}, ranked among these {int(data.cold.sum())} items alone"
    again = evaluate(scorer, data.task, data.train, narrowed, told=told, thorough=False)
    _write(console, again, folder / "among-cold", f"{title}, among cold items")


def _write(console: Console, evaluation: Evaluation, folder: Path, title: str) -> None:
    console.print(report.table(evaluation))
    console.print(report.gains_table(evaluation))
    text, numbers, picture = report.write(evaluation, folder, title)
    console.print(f"wrote {text}, {numbers} and {picture}")
