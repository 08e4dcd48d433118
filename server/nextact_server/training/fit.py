"""Training of a sequence model: which epoch is kept, when to stop, a log, and going on after a stop."""

from __future__ import annotations

import csv
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from nextact_server.features.time import TIME_DIM
from nextact_server.sequence.config import FIRST_ITEM, SequenceConfig
from nextact_server.sequence.model import SequenceModel
from nextact_server.training.batches import BatchLoss
from nextact_server.training.config import FitSettings, ModelSettings
from nextact_server.training.curves import Curves
from nextact_server.training.epochs import Epoch, Run
from nextact_server.training.prepare import Judged
from nextact_server.training.resume import load_run, save_run
from nextact_server.training.scoring import vocabulary_rows
from nextact_server.training.sequences import ABSENT, Catalogue, Int64, Sequences
from nextact_server.training.task import Task


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
    validation: Judged | None,
    shape: ModelSettings,
    settings: FitSettings,
    log_file: Path,
    *,
    console: Console | None = None,
    stop_after: int | None = None,
    label: str = "training",
    run_key: str = "",
    end_us: Int64 | int | None = None,
) -> Fitted:
    """Train on `train`; with `validation`, keep the epoch of the best NDCG@10 there and stop when it no longer rises.

    AdamW (Loshchilov and Hutter 2019) on one cycle of the learning rate over `settings.epochs`, of which only
    `stop_after` are run where given; what is judged and kept is the running average of the weights (Polyak and
    Juditsky 1992). The same seed and number of threads give the same weights. One CSV line per epoch and TensorBoard
    curves beside it. After each epoch the whole run is saved beside the log; a call with the same `run_key` goes on
    from there. `end_us` is when the watching ended, for all or, int64[U], for each user; None: with the last event.
    """
    items, counts = vocabulary(train, task.catalogue, settings)
    vocab = vocabulary_rows(task.catalogue, items)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = SequenceModel(_config(task, shape, len(items))).to(_device(settings))
        end_us = int(train.time_us.max(initial=0)) if end_us is None else end_us
        loss = BatchLoss(model, task, train, vocab, settings, end_us)
        run = Run(loss, model, task, train, vocab, settings)
        log = _epochs(run, validation, settings, log_file, console, stop_after or settings.epochs, label, run_key)
    run.model.load_state_dict(run.kept)
    run.model.cpu().eval().requires_grad_(False)
    return Fitted(run.model, items, counts, vocab, log[run.best - 1], tuple(log))


def _epochs(
    run: Run,
    validation: Judged | None,
    settings: FitSettings,
    log_file: Path,
    console: Console | None,
    total: int,
    label: str,
    run_key: str,
) -> list[Epoch]:
    saved_in = log_file.with_suffix(".run")
    log: list[Epoch] = []
    if (saved := load_run(saved_in, run_key)) is not None:
        log = [Epoch(**line) for line in saved.log]
        run.restore(saved)
    with (
        _progress(console) as progress,
        log_file.open("w", newline="") as file,
        Curves(log_file.parent / label) as curves,
    ):
        writer = csv.DictWriter(file, [field.name for field in fields(Epoch)])
        writer.writeheader()
        writer.writerows(asdict(epoch) for epoch in log)
        bar = progress.add_task(label, total=total, completed=len(log), figures=_figures(log[-1]) if log else "")
        for number in range(len(log) + 1, total + 1):
            if validation is not None and number - run.best > settings.patience * settings.validate_every:
                break
            is_judged = validation is not None and (number % settings.validate_every == 0 or number == total)
            epoch = run.epoch(number, validation if is_judged else None)
            log.append(epoch)
            if validation is None or (is_judged and not epoch.ndcg_at_10 <= _best(run, log)):
                run.keep(number)
            writer.writerow(asdict(epoch))
            file.flush()
            curves.add(asdict(epoch))
            save_run(saved_in, run.saved(run_key, [asdict(line) for line in log]))
            progress.update(bar, advance=1, figures=_figures(epoch))
    saved_in.unlink(missing_ok=True)
    return log


def _best(run: Run, log: list[Epoch]) -> float:
    return log[run.best - 1].ndcg_at_10 if run.best else math.nan


def vocabulary(
    train: Sequences, catalogue: Catalogue, settings: FitSettings
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the items that get an id of their own, in an order drawn by the seed, and their training events.

    The order is drawn because ids are often given in the order of release or import, and ties would leak it.
    """
    counts = np.bincount(train.item[train.item != ABSENT], minlength=len(catalogue.ids))
    rows = np.random.default_rng(settings.seed).permutation(np.flatnonzero(counts >= settings.min_item_count))
    return tuple(catalogue.ids[row] for row in rows), tuple(int(counts[row]) for row in rows)


def _config(task: Task, shape: ModelSettings, items: int) -> SequenceConfig:
    chosen = shape.model_dump()
    if not task.uses_time:
        chosen["horizon_s"] = None
    return SequenceConfig(
        actions=task.actions,
        n_items=FIRST_ITEM + items,
        time_dim=TIME_DIM,
        uses_time=task.uses_time,
        content_dim=task.catalogue.content.shape[1],
        **chosen,
    )


def _device(settings: FitSettings) -> torch.device:
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(settings.device)


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
