"""The two jobs of a data scientist: train a version from a configuration, and evaluate a version."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console

from nextact_server.sequence.card import DataSource, Evaluation, ModelCard
from nextact_server.sequence.checkpoint import load_model, save_model, state_bytes
from nextact_server.sequence.model import FIRST_ITEM
from nextact_server.training import report
from nextact_server.training.config import TrainingConfig, load_config
from nextact_server.training.content import ContentStore
from nextact_server.training.datasets import TIE_RULE, DataError
from nextact_server.training.evaluate import evaluate
from nextact_server.training.fit import Fitted, fit
from nextact_server.training.prepare import Prepared, load_dataset, prepare
from nextact_server.training.scoring import ModelScorer, vocabulary_rows

DEFAULT_CACHE: Final = Path("build/training/texts.npz")

_WEIGHT_LICENCES: Final = {"all-MiniLM-L6-v2": "Apache-2.0"}


def run_training(
    config_path: Path,
    out_dir: Path,
    *,
    logs_dir: Path = Path("build/training"),
    store: ContentStore | None = None,
    console: Console | None = None,
) -> ModelCard:
    """Train as the TOML file says and write a ready version directory, model.safetensors and card.json, to `out_dir`.

    First the number of epochs is chosen on validation users; then, unless fit.refit is off, the model is trained
    again on all training users for that many. It is evaluated on the excluded users, whom neither the model nor a
    baseline saw, and the card holds the figures. Logs (CSV, Markdown, JSON) go to `logs_dir`. Raises ConfigError or
    DataError.
    """
    console = console or Console()
    config = load_config(config_path)
    logs_dir.mkdir(parents=True, exist_ok=True)
    store = store or ContentStore(DEFAULT_CACHE)
    data = prepare(config, load_dataset(config, config_path.parent), store)
    settings = config.fit
    fitted = fit(
        data.task, data.first_fit, data.validation, config.model, settings, logs_dir / "fit.csv", console=console
    )
    chosen = fitted.best
    if settings.refit and data.validation is not None:
        fitted = fit(
            data.task,
            data.train,
            None,
            config.model,
            settings,
            logs_dir / "refit.csv",
            console=console,
            stop_after=chosen.epoch,
            label="refit",
        )
    evaluation = _evaluate(fitted, data)
    validation = {"epoch": float(chosen.epoch), "NDCG@10": chosen.ndcg_at_10, "HR@10": chosen.hr_at_10}
    validation["next-action accuracy"] = chosen.action_accuracy
    card = _card(config, data, store.encoder, fitted, {} if data.validation is None else validation, evaluation)
    written = save_model(fitted.model, card, out_dir)
    if evaluation is not None:
        _tell(console, evaluation, logs_dir, f"{card.name}, version {card.version}")
    console.print(f"wrote {out_dir}: {len(card.items)} items, {card.state_bytes_per_user} bytes of state per user")
    return written


def run_evaluation(
    version_dir: Path,
    config_path: Path,
    *,
    out_dir: Path = Path("build/evaluation"),
    store: ContentStore | None = None,
    console: Console | None = None,
) -> Evaluation:
    """Evaluate a version on the users its card excludes, and on the same events the baselines.

    The data and the split are those of the TOML file. Prints tables, writes evaluation.md and evaluation.json to
    `out_dir`. Raises DataError if the data or the held-out users are not those of the card.
    """
    console = console or Console()
    model, card = load_model(version_dir)
    config = load_config(config_path)
    dataset = load_dataset(config, config_path.parent)
    if dataset.sha256 != card.data.sha256:
        raise DataError(
            f"{config_path}: the data's sha256 is {dataset.sha256}, {version_dir} was trained on {card.data.sha256}"
        )
    data = prepare(config, dataset, store or ContentStore(DEFAULT_CACHE))
    if data.excluded_users != card.excluded_users:
        raise DataError(f"{config_path}: split.excluded gives other users than those {version_dir} was kept from")
    if data.held_out is None:
        raise DataError(f"{config_path}: no user falls into split.excluded, so there is nobody to evaluate on")
    vocab = vocabulary_rows(data.task.catalogue, {item: FIRST_ITEM + i for i, item in enumerate(card.items)})
    evaluation = evaluate(ModelScorer(model, data.task.catalogue, vocab), data.task, data.train, data.held_out)
    _tell(console, evaluation, out_dir, f"{card.name}, version {card.version}")
    return evaluation


def _evaluate(fitted: Fitted, data: Prepared) -> Evaluation | None:
    if data.held_out is None:
        return None
    scorer = ModelScorer(fitted.model, data.task.catalogue, fitted.vocab)
    return evaluate(scorer, data.task, data.train, data.held_out)


def _tell(console: Console, evaluation: Evaluation, folder: Path, title: str) -> None:
    console.print(report.table(evaluation))
    console.print(report.gains_table(evaluation))
    text, numbers = report.write(evaluation, folder, title)
    console.print(f"wrote {text} and {numbers}")


def _card(
    config: TrainingConfig,
    data: Prepared,
    encoder: str,
    fitted: Fitted,
    validation: dict[str, float],
    evaluation: Evaluation | None,
) -> ModelCard:
    split = config.split
    return ModelCard(
        name=config.name,
        version=config.version,
        config=fitted.model.config,
        items=fitted.items,
        item_counts=fitted.counts,
        exclude_seen_default=config.exclude_seen,
        state_bytes_per_user=state_bytes(fitted.model),
        data=DataSource(
            name=data.dataset.name,
            sha256=data.dataset.sha256,
            events=len(data.train.item),
            users=len(data.train.users),
            licence=data.dataset.licence,
        ),
        split=(
            f"by sha256(user_id) mod {split.modulus}: {list(split.excluded)} excluded from training and counts; "
            f"{list(split.validation)} held out while the number of epochs was chosen"
            + (", then trained on" if config.fit.refit else "")
        ),
        tie_rule=TIE_RULE,
        excluded_users=data.excluded_users,
        training_users=tuple(sorted(data.train.users)) if config.record_training_users else None,
        seed=config.fit.seed,
        date=datetime.now(UTC).date().isoformat(),
        encoders={"text": encoder},
        licences={data.dataset.name: data.dataset.licence, **_WEIGHT_LICENCES},
        training=config.fit.model_dump() | {"chosen_epoch": fitted.log[-1].epoch},
        validation=validation,
        evaluation=evaluation,
    )
