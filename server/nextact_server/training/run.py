"""The first job of a data scientist: train a version from a configuration."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console

from nextact_server.sequence.card import DataSource, ModelCard
from nextact_server.sequence.checkpoint import save_model, state_bytes
from nextact_server.training.calibration import temperature
from nextact_server.training.config import TrainingConfig, load_config
from nextact_server.training.content import ContentStore
from nextact_server.training.data_config import LeaveOneOut
from nextact_server.training.datasets import TIE_RULE
from nextact_server.training.epochs import Epoch
from nextact_server.training.evaluation_run import (
    DEFAULT_CACHE,
    conclusion,
    contest_of,
    folds,
    tell,
    version_dir_of,
)
from nextact_server.training.fit import Fitted, fit
from nextact_server.training.judging import judge
from nextact_server.training.prepare import Prepared, load_dataset, prepare
from nextact_server.training.scoring import ModelScorer
from nextact_server.training.splits import describe
from nextact_server.training.transitions import build_prior

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
    again on all training users for that many. It is evaluated on what the split holds out, which neither the model nor
    a baseline saw, and the card holds the figures. A split into folds makes a version of each, `out_dir`/fold-0 and so
    on, that are evaluated together; the last one's card is returned. Logs (CSV, Markdown, JSON, PNG) go to `logs_dir`.
    Raises ConfigError or DataError.
    """
    console = console or Console()
    config = load_config(config_path)
    store = store or ContentStore(DEFAULT_CACHE)
    dataset = load_dataset(config, config_path.parent)
    cards, contests = [], []
    for fold in folds(config):
        data = prepare(config, dataset, store, fold=fold)
        logs = logs_dir if len(folds(config)) == 1 else logs_dir / f"fold-{fold}"
        logs.mkdir(parents=True, exist_ok=True)
        fitted, chosen, refit = _fit(config, data, logs, console)
        _complete(fitted, config, data, is_refit=refit)
        split = describe(config.split, refit=refit)
        card = _card(config, data, split, store.encoder, fitted, _validated(chosen, data))
        cards.append((version_dir_of(out_dir, config, fold), fitted.model, card))
        contests.append(contest_of(ModelScorer(fitted.model, data.task.catalogue, fitted.vocab), data))
    evaluation = conclusion(contests, config, data)
    if evaluation is not None:
        tell(console, evaluation, ModelScorer(fitted.model, data.task.catalogue, fitted.vocab), config, data, logs_dir)
    for folder, model, card in cards:
        written = save_model(model, card.model_copy(update={"evaluation": evaluation}), folder)
        console.print(f"wrote {folder}: {len(card.items)} items, {card.state_bytes_per_user} bytes of state per user")
    return written


def _fit(config: TrainingConfig, data: Prepared, logs_dir: Path, console: Console) -> tuple[Fitted, Epoch, bool]:
    """Train, and again with the users who were held out to choose the epochs; tell the chosen epoch, and whether so."""

    def key(label: str) -> str:
        told = [config.model.model_dump(), config.fit.model_dump(), config.split.model_dump(), config.exclude_seen]
        told += [data.dataset.sha256, label, *data.task.actions, *data.excluded_users]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    # Where everybody's last event is kept back, nobody was watched for longer than until the one before it.
    kept_back = isinstance(config.split, LeaveOneOut)
    end_us = data.train.time_us[data.train.starts[1:] - 1] if kept_back else None
    fitted = fit(
        data.task,
        data.first_fit,
        data.validation,
        config.model,
        config.fit,
        logs_dir / "fit.csv",
        console=console,
        run_key=key("training"),
        end_us=end_us,
    )
    chosen = fitted.best
    if not config.fit.refit or data.train is data.first_fit:
        return fitted, chosen, False
    _calibrate(fitted, data)  # only here are there events that the model did not see
    heat = fitted.model.config.action_temperature
    again = fit(
        data.task,
        data.train,
        None,
        config.model,
        config.fit,
        logs_dir / "refit.csv",
        console=console,
        stop_after=chosen.epoch,
        label="refit",
        run_key=key("refit"),
    )
    again.model.calibrate(action_temperature=heat)
    return again, chosen, True


def _complete(fitted: Fitted, config: TrainingConfig, data: Prepared, *, is_refit: bool) -> None:
    """Add what is not learned by gradient: the prior, counted on what the model was trained on, and the temperature."""
    if config.prior is not None:
        prior = build_prior(data.train, fitted.vocab, fitted.model.config.n_items, config.prior)
        fitted.model.add_prior(prior)
    if not is_refit:
        _calibrate(fitted, data)


def _calibrate(fitted: Fitted, data: Prepared) -> None:
    if not data.task.actions or data.validation is None:
        return
    scorer = ModelScorer(fitted.model, data.task.catalogue, fitted.vocab)
    judged = judge(scorer, data.validation, exclude_seen=data.task.exclude_seen)
    fitted.model.calibrate(action_temperature=temperature(judged.action_log, judged.action))


def _validated(chosen: Epoch, data: Prepared) -> dict[str, float]:
    """Return what validation said of the chosen epoch, without the prior."""
    if data.validation is None:
        return {}
    figures = {"epoch": float(chosen.epoch), "NDCG@10": chosen.ndcg_at_10, "HR@10": chosen.hr_at_10}
    return figures | ({"next-action accuracy": chosen.action_accuracy} if data.task.actions else {})


def _card(
    config: TrainingConfig,
    data: Prepared,
    split: str,
    encoder: str,
    fitted: Fitted,
    validation: dict[str, float],
) -> ModelCard:
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
        split=split,
        tie_rule=TIE_RULE,
        excluded_users=data.excluded_users,
        training_users=tuple(sorted(data.train.users)) if config.record_training_users else None,
        seed=config.fit.seed,
        date=datetime.now(UTC).date().isoformat(),
        encoders={"text": encoder},
        licences={data.dataset.name: data.dataset.licence, **_WEIGHT_LICENCES},
        training=config.fit.model_dump() | {"chosen_epoch": fitted.best.epoch},
        validation=validation,
    )
