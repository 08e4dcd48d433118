"""Outputs of tensor requests that only some models have: when the next event comes, as of each row, and actions."""

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tritonclient.grpc import model_config_pb2

from nextact_server.events.arrival import arrive
from nextact_server.events.batch import EventBatch
from nextact_server.events.call import Answer, Call, CallOptions, NextColumns, Predictions, Want
from nextact_server.events.validation import EventLimits
from nextact_server.inference.infer_request import InferRequest
from nextact_server.own_models.next_action_backend import NextActionBackend, ServedNextAction
from nextact_server.own_models.next_action_outputs import NextActionOutputs

NOW = 1_700_000_000_000_000
NAMES = ("expected_gap_s", "leave_probability")
SINK: Any = None


def outputs(*, foretells_next: bool, actions: int = 2) -> NextActionOutputs:
    return NextActionOutputs(
        lambda rows: [""] * len(rows),
        embedding_dim=2,
        actions=actions,
        default_top_k=3,
        max_top_k=10,
        foretells_next=foretells_next,
    )


def answer_of(rows: int, predicted: list[int], coming: NextColumns | None) -> Answer:
    """Rows that are calls of their own, of which some got a prediction."""
    batch = EventBatch(
        size=rows,
        event_time=np.full(rows, NOW),
        user_id=pa.array(["u"] * rows, pa.string()),
        action=pa.array(["view"] * rows, pa.string()),
    )
    calls = [Call(row, row + 1, CallOptions()) for row in range(rows)]
    at = np.array(predicted, np.int64)
    durable: Future[None] = Future()
    return Answer(
        arrival=arrive(batch, calls, EventLimits(), {}, NOW),
        status=np.ones(rows, np.int8),
        original=np.zeros(rows, np.int8),
        applied=np.ones(rows, np.bool_),
        predictions=Predictions(at, at, np.ones(len(at), np.int64), next=coming) if predicted else None,
        durable=durable,
    )


def request(rows: int, *names: str) -> InferRequest:
    return InferRequest({}, SINK, batch_size=rows, correlation_id="u", output_names=names)


def test_each_row_gets_its_own_and_a_row_without_a_prediction_zeros() -> None:
    coming = NextColumns(np.array([5.0, 7.0], np.float32), np.array([0.25, 0.5], np.float32), 60.0)
    first, second = outputs(foretells_next=True).responses(answer_of(3, [0, 2], coming), [request(2), request(1)])
    assert [first.outputs[name].tolist() for name in NAMES] == [[[5.0], [0.0]], [[0.25], [0.0]]]
    assert [second.outputs[name].tolist() for name in NAMES] == [[[7.0]], [[0.5]]]
    assert {first.outputs[name].dtype for name in NAMES} == {np.dtype(np.float32)}


@pytest.mark.parametrize("predicted", [[0, 1], []])
def test_what_was_not_asked_for_is_zeros_of_the_same_shape(predicted: list[int]) -> None:
    (response,) = outputs(foretells_next=True).responses(answer_of(2, predicted, None), [request(2)])
    assert [response.outputs[name].tolist() for name in NAMES] == [[[0.0], [0.0]]] * 2


def test_a_model_without_the_head_has_no_such_outputs() -> None:
    (response,) = outputs(foretells_next=False).responses(answer_of(2, [0, 1], None), [request(2)])
    assert not set(NAMES) & set(response.outputs)


def test_it_is_computed_only_for_who_asks_and_as_of_the_rows_event() -> None:
    asked = outputs(foretells_next=True)
    assert asked.options(request(1, "status", "embedding")).want == Want.EMBEDDING
    for name in NAMES:
        assert asked.options(request(1, name)).want == Want.NEXT
    everything = asked.options(request(1))
    assert everything.want == Want.ALL
    assert everything.at_event


@pytest.mark.parametrize("actions", [0, 2])
def test_a_model_of_data_without_actions_has_no_scores_of_them(actions: int) -> None:
    (response,) = outputs(foretells_next=False, actions=actions).responses(answer_of(2, [], None), [request(2)])
    assert ("action_scores" in response.outputs) is bool(actions)
    served = ServedNextAction("next_action", "1", tuple("ab"[:actions]), 2)
    backend = NextActionBackend(served, SINK, outputs(foretells_next=False, actions=actions), max_rows=1)
    config = backend.complete(model_config_pb2.ModelConfig(name="next_action", backend="nextact"), Path())
    assert {output.name for output in config.output} == set(response.outputs)
    assert all(width == -1 or width > 0 for output in config.output for width in output.dims)
