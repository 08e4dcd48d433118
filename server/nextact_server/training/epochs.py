"""The epochs of a training run: steps, the running average of the weights, and what it takes to go on after a stop."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass

import numpy as np
import torch

from nextact_server.sequence.model import SequenceModel
from nextact_server.training.batches import BatchLoss
from nextact_server.training.config import FitSettings
from nextact_server.training.judging import judge
from nextact_server.training.metrics import item_metrics
from nextact_server.training.prepare import Judged
from nextact_server.training.resume import Saved
from nextact_server.training.scoring import ModelScorer
from nextact_server.training.sequences import Int64, Sequences
from nextact_server.training.task import Task
from nextact_server.training.windows import Windows, batches, cut


@dataclass(frozen=True, slots=True)
class Epoch:
    """One line of the log. Validation figures are NaN where nothing was validated."""

    epoch: int
    seconds: float
    item_loss: float
    action_loss: float
    next_loss: float
    ndcg_at_10: float
    hr_at_10: float
    action_accuracy: float


class Run:
    """The moving parts of a run: weights and their average, optimizer, generators, and the best weights so far."""

    def __init__(
        self, loss: BatchLoss, model: SequenceModel, task: Task, train: Sequences, vocab: Int64, settings: FitSettings
    ) -> None:
        """Start with the weights that `model` has; `loss` is that of `model` on `train`."""
        self.model, self._task, self._train, self._vocab, self._settings = model, task, train, vocab, settings
        self._average = copy.deepcopy(model).requires_grad_(False).eval()
        self.kept = self._average.state_dict()
        self.best = 0
        self._steps = 0
        self._rng = np.random.default_rng(settings.seed)
        self._loss = loss
        decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
        others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self._optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98))

    def epoch(self, number: int, validation: Judged | None) -> Epoch:
        """Run epoch `number`, from 1, and judge the averaged weights after it."""
        began = time.perf_counter()
        self.model.train()
        settings = self._settings
        planned = list(batches(cut(self._train, settings.window, self._rng), settings.batch_events, self._rng))
        losses = np.zeros(3)
        for done, batch in enumerate(planned):
            progress = (number - 1 + done / len(planned)) / settings.epochs
            for group in self._optimizer.param_groups:
                group["lr"] = settings.learning_rate * one_cycle(progress, settings.warmup)
            losses += self._step(batch)
        figures = _validate(self._average, self._task, self._vocab, validation)
        item_loss, action_loss, next_loss = (losses / len(planned)).tolist()
        return Epoch(number, round(time.perf_counter() - began, 2), item_loss, action_loss, next_loss, *figures)

    def keep(self, number: int) -> None:
        """Keep the averaged weights as those of the best epoch, `number`."""
        self.best = number
        self.kept = {name: tensor.clone() for name, tensor in self._average.state_dict().items()}

    def saved(self, key: str, log: list[dict[str, float]]) -> Saved:
        """Return all that it takes to go on after the last epoch."""
        return Saved(
            key=key,
            log=log,
            best=self.best,
            steps=self._steps,
            numpy=self._rng.bit_generator.state,
            tensors={
                "weights": self.model.state_dict(),
                "average": self._average.state_dict(),
                "kept": self.kept,
                "generators": {"torch": torch.get_rng_state(), "loss": self._loss.generator.get_state()},
            },
            optimizer=self._optimizer.state_dict(),
        )

    def restore(self, saved: Saved) -> None:
        """Go back to where a run was saved."""
        self.best, self._steps = saved.best, saved.steps
        self._rng.bit_generator.state = saved.numpy
        self.model.load_state_dict(saved.tensors["weights"])
        self._average.load_state_dict(saved.tensors["average"])
        self.kept = saved.tensors["kept"]
        torch.set_rng_state(saved.tensors["generators"]["torch"])
        self._loss.generator.set_state(saved.tensors["generators"]["loss"])
        self._optimizer.load_state_dict(saved.optimizer)

    def _step(self, batch: Windows) -> tuple[float, float, float]:
        losses = self._loss(batch)
        settings = self._settings
        total = losses.item + settings.action_weight * losses.action + settings.next_weight * losses.next
        self._optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimizer.step()
        self._steps += 1
        # The average follows fast at first, else it would hold the first, drawn weights for long.
        decay = min(settings.average, (1 + self._steps) / (10 + self._steps))
        with torch.no_grad():
            for mean, now in zip(self._average.parameters(), self.model.parameters(), strict=True):
                mean.lerp_(now, 1.0 - decay)
        return losses.item.item(), losses.action.item(), losses.next.item()


def one_cycle(progress: float, warmup: float) -> float:
    """Return the part of the peak learning rate at `progress` in [0, 1]: up over `warmup`, then down to 1e-3 of it."""
    if progress < warmup:
        return 0.04 + 0.96 * 0.5 * (1.0 - math.cos(math.pi * progress / warmup))
    return 1e-3 + (1.0 - 1e-3) * 0.5 * (1.0 + math.cos(math.pi * (progress - warmup) / (1.0 - warmup)))


def _validate(model: SequenceModel, task: Task, vocab: Int64, validation: Judged | None) -> tuple[float, float, float]:
    if validation is None:
        return math.nan, math.nan, math.nan
    judged = judge(ModelScorer(model, task.catalogue, vocab), validation, exclude_seen=task.exclude_seen)
    figures = item_metrics(judged.rank)
    accuracy = float(judged.action_hit.mean()) if len(judged.action_hit) else math.nan
    return float(figures["NDCG@10"].mean()), float(figures["HR@10"].mean()), accuracy
