"""The limit of a stream: the recurrent step alone (gather, cell, scatter) over the same batches, in its own process."""

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.orders import answer_orders
from nextact_server.sequence.checkpoint import load_model

__all__: list[str] = []


def main(version_dir: Path, residents: int) -> None:
    """Takes orders `{lanes: [[user row per event]...]}`: one batch per list; answers with seconds for all of them."""
    torch.set_num_threads(1)  # as in the server
    model, _ = load_model(version_dir)
    model.eval()
    arena = {name: torch.zeros(residents, *shape) for name, shape in model.state_spec().items()}

    def handle(order: dict[str, Any]) -> dict[str, Any]:
        torch.set_num_threads(order.get("threads", 1))
        batches = []
        for lanes in order["lanes"]:
            users, counts = np.unique(np.array(lanes, np.int64), return_counts=True)
            inputs = torch.rand(len(lanes), model.config.input_dim)
            batches.append((torch.from_numpy(users), torch.from_numpy(counts.astype(np.int64)), inputs))
        started = time.perf_counter()
        with torch.inference_mode():
            for rows, lengths, inputs in batches:
                state = {name: tensor[rows] for name, tensor in arena.items()}
                _, state = model.scan(inputs, lengths, state)
                for name, tensor in arena.items():
                    tensor[rows] = state[name]
        return {"seconds": time.perf_counter() - started}

    answer_orders(handle)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
