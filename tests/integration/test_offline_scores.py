"""What is served is what was evaluated: the same scores as the model gives when it is read without a server."""

import numpy as np
import pytest
import torch
from support.event_makers import event, new_name, predict
from support.serving import StartServer
from support.tiny_model import ACTIONS, ITEMS, tiny_model

from nextact.v1 import behavior_pb2 as pb
from nextact_server.features.time import time_features
from nextact_server.sequence.config import FIRST_ACTION, FIRST_ITEM, NO_ITEM

SECOND_US = 1_000_000


def foretold(events: list[pb.Event]) -> tuple[np.ndarray, np.ndarray]:
    """Log scores float32[items] and action probabilities float32[actions] after the events, by the model alone."""
    model = tiny_model().eval().requires_grad_(False)
    assert model.prior is not None
    vocab = torch.arange(FIRST_ITEM, FIRST_ITEM + len(ITEMS))
    nothing, absent = torch.zeros(len(ITEMS), model.config.content_dim), torch.zeros(len(ITEMS), dtype=torch.bool)
    vectors, bias = model.item_vectors(vocab, nothing, absent), model.item_bias(vocab, nothing, absent)
    item = torch.tensor([FIRST_ITEM + ITEMS.index(one.item_id) if one.item_id else NO_ITEM for one in events])
    at = np.array([one.event_time.ToMicroseconds() for one in events])
    inputs = model.inputs(
        torch.where((item >= FIRST_ITEM)[:, None], vectors[(item - FIRST_ITEM).clamp(min=0)], 0.0),
        item,
        torch.tensor([FIRST_ACTION + ACTIONS.index(one.action) for one in events]),
        torch.from_numpy(time_features(at, np.diff(at, prepend=at[0] + 1))),
    )
    state = model.initial_state(1)
    for row in inputs:
        _, state = model.step(state, row[None])
    known = [int(row) for row in item.flip(0) if row >= FIRST_ITEM][: model.config.remembered_items]
    recent = torch.tensor([(known + [0] * model.config.remembered_items)[: model.config.remembered_items]]).float()
    hidden = model.hidden(state)
    columns = torch.cat((torch.full((FIRST_ITEM,), -1), torch.arange(len(ITEMS))))
    scores = model.log_scores(model.query(hidden, recent) @ vectors.T + bias, recent, columns)
    return scores[0].numpy(), torch.softmax(model.action_logits(hidden), dim=1)[0].numpy()


@pytest.mark.parametrize("grouped", [False, True])
def test_scores_and_actions_are_those_of_the_model_alone(start_server: StartServer, grouped: bool) -> None:
    server = start_server()  # whose catalogue holds what was trained and nothing else
    user = new_name()
    items = [ITEMS[3], ITEMS[4], "", ITEMS[40], ITEMS[3], ITEMS[9]]
    events = [
        event(user, 60 * at, action=ACTIONS[at % len(ACTIONS)], item_id=item, message_id=str(at))
        for at, item in enumerate(items)
    ]
    for part in [events] if grouped else [[one] for one in events]:
        (prediction,) = server.stub.Predict(predict(part, top_k=len(ITEMS))).predictions
    scores, actions = foretold(events)
    ranked = server.stub.Rank(pb.RankRequest(user_id=user, candidates=ITEMS))
    for answer in (prediction.items, ranked.items):
        served = {one.item_id: one.score for one in answer if one.item_id in ITEMS}
        np.testing.assert_allclose([served[item] for item in ITEMS], scores, rtol=0, atol=1e-4)
    assert np.exp(scores).sum() == pytest.approx(1, abs=1e-4), "log probabilities over the whole catalogue"
    served_actions = {one.action: one.score for one in prediction.actions}
    np.testing.assert_allclose([served_actions[action] for action in ACTIONS], actions, rtol=0, atol=1e-5)
