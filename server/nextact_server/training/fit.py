"""Training of a sequence model: epochs, early stopping, a log."""

from __future__ import annotations

import copy
import csv
import math
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from nextact_server.features.time import TIME_DIM
from nextact_server.sequence.model import FIRST_ITEM, SequenceConfig, SequenceModel
from nextact_server.training.batches import BatchLoss, Windows, cut, shuffled
from nextact_server.training.config import FitSettings, ModelSettings
from nextact_server.training.metrics import item_metrics
from nextact_server.training.scoring import ModelScorer, first_judged, judge, vocabulary_rows
from nextact_server.training.sequences import ABSENT, Catalogue, Int64, Sequences
from nextact_server.training.task import Task


@dataclass(frozen=True, slots=True)
class Epoch:
    """One line of the log. Validation figures are NaN where there was nothing to validate on."""

    epoch: int
    seconds: float
    item_loss: float
    action_loss: float
    ndcg_at_10: float
    hr_at_10: float
    action_accuracy: float


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained model, its vocabulary (`items[i]` has row FIRST_ITEM + i, `counts[i]` training events) and its log."""

    model: SequenceModel
    items: tuple[str, ...]
    counts: tuple[int, ...]
    vocab: Int64
    best: Epoch
    log: tuple[Epoch, ...]


def fit(
    task: Task,
    train: Sequences,
    validation: Sequences | None,
    shape: ModelSettings,
    settings: FitSettings,
    log_file: Path,
    *,
    console: Console | None = None,
    stop_after: int | None = None,
    label: str = "training",
) -> Fitted:
    """Train on `train`; with `validation`, keep the epoch of the best NDCG@10 there and stop when it no longer rises.

    AdamW (Loshchilov and Hutter 2019) on a one-cycle schedule (Smith and Topin 2019) over `settings.epochs`, of which
    only `stop_after` are run where given. The same seed and number of threads give the same weights. One CSV line per
    epoch.
    """
    items, counts = vocabulary(train, task.catalogue, settings)
    vocab = vocabulary_rows(task.catalogue, {item: FIRST_ITEM + i for i, item in enumerate(items)})
    config = SequenceConfig(
        actions=task.actions,
        n_items=FIRST_ITEM + len(items),
        time_dim=TIME_DIM,
        content_dim=task.catalogue.content.shape[1],
        **shape.model_dump(),
    )
    log: list[Epoch] = []
    best: Epoch | None = None
    with torch.random.fork_rng(devices=[]), _progress(console) as progress, log_file.open("w", newline="") as file:
        torch.manual_seed(settings.seed)
        model = SequenceModel(config)
        kept = model.state_dict()
        epochs = _Epochs(model, task, train, vocab, settings)
        writer = csv.DictWriter(file, [field.name for field in fields(Epoch)])
        writer.writeheader()
        bar = progress.add_task(label, total=stop_after or settings.epochs, figures="")
        for number in range(1, (stop_after or settings.epochs) + 1):
            epoch = epochs.run(number, validation)
            log.append(epoch)
            writer.writerow(asdict(epoch))
            file.flush()
            progress.update(bar, advance=1, figures=_figures(epoch))
            if validation is None or best is None or epoch.ndcg_at_10 > best.ndcg_at_10:
                best, kept = epoch, copy.deepcopy(model.state_dict())
            elif number - best.epoch >= settings.patience:
                break
    if best is None:
        raise ValueError("no epoch was run; set fit.epochs to 1 or more")
    model.load_state_dict(kept)
    model.eval().requires_grad_(False)
    return Fitted(model, items, counts, vocab, best, tuple(log))


class _Epochs:
    """The moving parts of a run: model, optimizer, the drawing of windows."""

    def __init__(self, model: SequenceModel, task: Task, train: Sequences, vocab: Int64, settings: FitSettings) -> None:
        self._model, self._task, self._train, self._vocab, self._settings = model, task, train, vocab, settings
        self._rng = np.random.default_rng(settings.seed)
        self._loss = BatchLoss(model, task.catalogue, vocab, settings, exclude_seen=task.exclude_seen)
        decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
        others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self._optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98))

    def run(self, number: int, validation: Sequences | None) -> Epoch:
        """Run epoch `number`, from 1, and judge the model after it."""
        began = time.perf_counter()
        self._model.train()
        windows = cut(self._train, self._settings.window, self._rng)
        batches = list(shuffled(windows, self._settings.windows_per_batch, self._rng))
        losses = np.zeros(2)
        for done, batch in enumerate(batches):
            rate = self._settings.learning_rate * one_cycle((number - 1 + done / len(batches)) / self._settings.epochs)
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            losses += self._step(batch)
        self._model.eval()
        figures = _validate(self._model, self._task, self._vocab, validation)
        item_loss, action_loss = (losses / len(batches)).tolist()
        return Epoch(number, round(time.perf_counter() - began, 2), item_loss, action_loss, *figures)

    def _step(self, batch: Windows) -> tuple[float, float]:
        item_loss, action_loss = self._loss(self._train, batch)
        self._optimizer.zero_grad(set_to_none=True)
        (item_loss + self._settings.action_weight * action_loss).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        return item_loss.item(), action_loss.item()


def vocabulary(
    train: Sequences, catalogue: Catalogue, settings: FitSettings
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the items that get an id of their own, in an order drawn by the seed, and their training events.

    The order is drawn because ids are often given in the order of release or import, and ties would leak it.
    """
    counts = np.bincount(train.item[train.item != ABSENT], minlength=len(catalogue.ids))
    rows = np.random.default_rng(settings.seed).permutation(np.flatnonzero(counts >= settings.min_item_count))
    return tuple(catalogue.ids[row] for row in rows), tuple(int(counts[row]) for row in rows)


def one_cycle(progress: float) -> float:
    """Return the part of the peak learning rate at `progress` in [0, 1]: up over the first fifth, then down to 1e-3."""
    if progress < 0.2:
        return 0.04 + 0.96 * 0.5 * (1.0 - math.cos(math.pi * progress / 0.2))
    return 1e-3 + (1.0 - 1e-3) * 0.5 * (1.0 + math.cos(math.pi * (progress - 0.2) / 0.8))


def _validate(
    model: SequenceModel, task: Task, vocab: Int64, validation: Sequences | None
) -> tuple[float, float, float]:
    if validation is None:
        return math.nan, math.nan, math.nan
    scorer = ModelScorer(model, task.catalogue, vocab)
    judged = judge(scorer, validation, first_judged(validation, task.judged_part), exclude_seen=task.exclude_seen)
    figures = item_metrics(judged.rank)
    return float(figures["NDCG@10"].mean()), float(figures["HR@10"].mean()), float(judged.action_hit.mean())


def _figures(epoch: Epoch) -> str:
    loss = f"loss {epoch.item_loss:.3f} + {epoch.action_loss:.3f}"
    if math.isnan(epoch.ndcg_at_10):
        return loss
    return f"{loss}  NDCG@10 {epoch.ndcg_at_10:.4f}  HR@10 {epoch.hr_at_10:.4f}  actions {epoch.action_accuracy:.3f}"


def _progress(console: Console | None) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    return Progress(
        *columns, TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[figures]}"), console=console
    )
