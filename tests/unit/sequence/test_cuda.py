"""The sequence model on CUDA, where there is one."""

import numpy as np
import pytest
import torch

from nextact_server.features.time import TIME_DIM
from nextact_server.sequence.config import SequenceConfig
from nextact_server.sequence.model import SequenceModel


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device on this machine")
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_scan_on_cuda_equals_the_one_on_the_cpu(cell: str) -> None:
    torch.manual_seed(3)
    config = SequenceConfig(cell=cell, actions=("view", "buy"), n_items=40, time_dim=TIME_DIM, hidden_dim=32)  # type: ignore[arg-type]
    model = SequenceModel(config).eval()
    lengths = torch.tensor([3, 1, 5])
    x = torch.from_numpy(np.random.default_rng(3).normal(size=(9, config.input_dim)).astype(np.float32))
    with torch.inference_mode():
        expected, expected_state = model.scan(x, lengths, model.initial_state(3))
        model.to("cuda")
        found, found_state = model.scan(x.to("cuda"), lengths, model.initial_state(3))
    torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=1e-4)
    for name, tensor in expected_state.items():
        torch.testing.assert_close(found_state[name].cpu(), tensor, atol=1e-4, rtol=1e-4)
