"""Counting which items follow which: the table of a model's prior."""

from __future__ import annotations

import numpy as np
import torch

from nextact_server.sequence.config import FIRST_ITEM, PriorConfig
from nextact_server.sequence.prior import Prior
from nextact_server.training.baselines import followed
from nextact_server.training.config import PriorSettings
from nextact_server.training.sequences import Int64, Sequences


def build_prior(sequences: Sequences, vocab: Int64, n_items: int, settings: PriorSettings) -> Prior:
    """Return the prior of a model whose vocabulary holds the catalogue's items at rows `vocab` int64[C].

    Pairs of one user's next-item events are counted as `followed` does; each item keeps its `successors` most frequent
    ones, and shares are of what is kept. An item is no successor of itself.
    """
    target, reach = sequences.item_target, settings.span
    counts = followed(
        sequences, target, len(vocab), reach=reach, decay=settings.span_decay, backward=settings.backward
    ).tocoo()
    named = (
        (vocab[counts.row] >= FIRST_ITEM)
        & (vocab[counts.col] >= FIRST_ITEM)
        & (counts.data > 0)
        & (counts.row != counts.col)
    )
    head, tail, count = vocab[counts.row][named], vocab[counts.col][named], counts.data[named]
    order = np.lexsort((tail, -count, head))
    head, tail, count = head[order], tail[order], count[order]
    size = np.bincount(head, minlength=n_items)
    place = np.arange(len(head)) - (np.cumsum(size) - size)[head]
    kept = place < settings.successors
    head, tail, count = head[kept], tail[kept], count[kept]
    total = np.bincount(head, weights=count, minlength=n_items)
    config = PriorConfig(settings.weight, settings.decay, settings.reach, len(head))
    prior = Prior(config, n_items)
    prior.starts.copy_(torch.from_numpy(np.concatenate(([0], np.cumsum(np.bincount(head, minlength=n_items))))))
    prior.items.copy_(torch.from_numpy(tail.astype(np.int32)))
    prior.shares.copy_(torch.from_numpy((count / total[head]).astype(np.float32)))
    prior.check()
    return prior
