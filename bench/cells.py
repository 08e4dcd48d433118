"""What one event costs in each cell: a step of 256 users, and of users with a long history, beside a plain GRU's."""

import time

import torch

from bench.figures import Figure, Target, alternate, ratios, sample
from bench.plan import Plan
from nextact_server.features.time import TIME_DIM
from nextact_server.sequence.config import CellName, PriorConfig, SequenceConfig
from nextact_server.sequence.model import SequenceModel
from nextact_server.training.config import ModelSettings, PriorSettings

__all__ = ["measure"]

PART = "Cells"
USERS = 256
GRU_WIDTH = 256
OTHERS: tuple[CellName, ...] = ("lstm", "lru", "sasrec")


def measure(plan: Plan) -> list[Figure]:
    """Seconds of a step of fresh users, the state's rows given, one thread as in the server."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measure(plan)
    finally:
        torch.set_num_threads(threads)


def _measure(plan: Plan) -> list[Figure]:
    plan.say(f"steps of {USERS} users")
    prior = PriorSettings()
    default = _model("gated", prior=PriorConfig(prior.weight, prior.decay, prior.reach, entries=0))
    plain = _model("gru", layers=1, hidden_dim=GRU_WIDTH)
    steps = plan.size(200, 20)
    ours, theirs = alternate(plan.rounds, [lambda: _seconds(default, steps), lambda: _seconds(plain, steps)])
    bytes_of_state = sum(4 * torch.Size(shape).numel() for shape in default.state_spec().values())
    figures = [
        Figure(PART, f"the default, gated, {USERS} users", "ms", sample([1e3 * one for one in ours.values])),
        Figure(PART, f"GRU of width {GRU_WIDTH}", "ms", sample([1e3 * one for one in theirs.values])),
        Figure(
            PART, "default / GRU", "", ratios(ours, theirs), Target("at most", 1.5), "the prior is paid when ranking"
        ),
        Figure(PART, "state of a user, default", "bytes", sample([bytes_of_state]), Target("at most", 2048)),
    ]
    for name in OTHERS:
        model = _model(name)
        few = max(2, steps // 20) if name == "sasrec" else steps
        figures.append(
            Figure(
                PART, name, "ms", sample([1e3 * _seconds(model, few) for _ in range(plan.rounds)]), None, "same shape"
            )
        )
    return figures


def _model(cell: CellName, *, prior: PriorConfig | None = None, **changes: int) -> SequenceModel:
    """A model with drawn weights: what a step costs does not depend on what it has learned."""
    torch.manual_seed(0)
    shape = ModelSettings(cell=cell).model_dump() | changes
    config = SequenceConfig(actions=("view", "buy"), n_items=1000, time_dim=TIME_DIM, prior=prior, **shape)
    return SequenceModel(config).eval().requires_grad_(False)


def _seconds(model: SequenceModel, steps: int) -> float:
    x = torch.rand(USERS, model.config.input_dim)
    state = model.initial_state(USERS)
    with torch.inference_mode():
        _, state = model.step(state, x)
        started = time.perf_counter()
        for _ in range(steps):
            _, state = model.step(state, x)
        return (time.perf_counter() - started) / steps
