from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up import DIM, sequences_of, task_of

from nextact_server.features.time import TIME_DIM
from nextact_server.sequence.config import FIRST_ITEM, UNKNOWN_ITEM, SequenceConfig
from nextact_server.sequence.model import SequenceModel
from nextact_server.training.batches import BatchLoss
from nextact_server.training.config import FitSettings
from nextact_server.training.sequences import Catalogue
from nextact_server.training.windows import cut

CERTAIN = FitSettings(input_id_dropout=0, output_id_dropout=0, content_dropout=0, unknown_rate=0, device="cpu")
WALKS = [[0, 1, 2, 3], [2, 3, 1], [3, 0]]


def item_loss(known: int, never_met: int, *, exclude_seen: bool) -> torch.Tensor:
    torch.manual_seed(0)
    config = SequenceConfig(
        actions=(), n_items=FIRST_ITEM + known, time_dim=TIME_DIM, cell="gru", item_dim=8, hidden_dim=8,
        content_dim=DIM, uses_time=False,
    )  # fmt: skip
    model = SequenceModel(config).eval()
    count = known + never_met
    content = np.random.default_rng(0).normal(size=(9, DIM)).astype(np.float32)[:count]
    catalogue = Catalogue(tuple(f"i{row}" for row in range(count)), content, np.ones(count, dtype=np.bool_))
    task = replace(task_of(count, exclude_seen=exclude_seen), catalogue=catalogue)
    vocab = np.append(FIRST_ITEM + np.arange(known), np.full(never_met, UNKNOWN_ITEM)).astype(np.int64)
    sequences = sequences_of(WALKS)
    loss = BatchLoss(model, task, sequences, vocab, CERTAIN, 0)
    return loss(cut(sequences, 10, np.random.default_rng(0))).item


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_an_item_that_never_occurs_is_no_candidate(exclude_seen: bool) -> None:
    alone = item_loss(4, 0, exclude_seen=exclude_seen)
    assert alone.item() > 0
    torch.testing.assert_close(item_loss(4, 3, exclude_seen=exclude_seen), alone)
