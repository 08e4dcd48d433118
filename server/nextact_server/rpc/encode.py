"""From what the rooms answered to the contract's messages."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from nextact.v1 import behavior_pb2 as pb
from nextact_server.events.call import Answer, Predictions, Want
from nextact_server.events.status import Status
from nextact_server.rpc.prediction_wire import (
    PREDICTIONS_TAG,
    STREAM_PREDICTIONS_TAG,
    PredictionWriter,
    ResultWriter,
    ids_of,
)
from nextact_server.sequence.stage import Ranked

ItemIds = Callable[[NDArray[np.int64]], list[str]]
"""Index rows to item ids."""

DURABILITY = {
    "memory": pb.DURABILITY_MEMORY,
    "interval": pb.DURABILITY_INTERVAL,
    "sync": pb.DURABILITY_SYNC,
}


class Encoder:
    """Writes answers; knows the model's name and version, its actions, and how index rows are called."""

    def __init__(
        self, model: tuple[str, str], actions: Sequence[str], item_ids: ItemIds, durability: str, content_model: str
    ) -> None:
        self.model = pb.Model(name=model[0], version=model[1])
        self.content_model = pb.Model(name=content_model)
        self._actions = list(actions)
        self._writer = PredictionWriter(actions)
        self._item_ids = item_ids
        self._durability = DURABILITY[durability]

    def predict_responses(self, answer: Answer, queue_us: int, store_us: int) -> list[bytes]:
        """One serialized PredictResponse per call of the arrival. `history` rows of stateless calls have no result."""
        rest = pb.PredictResponse(
            model=self.model,
            timing=pb.Timing(queue_us=queue_us, compute_us=answer.compute_us, store_us=store_us),
            durability=self._durability,
        ).SerializeToString()
        results = ResultWriter(answer)
        parts: list[list[bytes]] = [
            [results.field(row, row - call.start - call.history) for row in range(call.start + call.history, call.stop)]
            for call in answer.arrival.calls
        ]
        if answer.predictions is not None:
            predictions = self._prediction_fields(answer, answer.predictions, PREDICTIONS_TAG)
            for call, prediction in zip(answer.predictions.call.tolist(), predictions, strict=True):
                parts[call].append(prediction)
        return [b"".join([*fields, rest]) for fields in parts]

    def stream_response(self, number: int, answer: Answer, *, columnar: bool) -> bytes:
        """The serialized acknowledgement of a stream message."""
        counts = np.bincount(answer.status, minlength=len(Status) + 1)
        response = pb.StreamEventsResponse(
            number=number,
            accepted=int(counts[Status.ACCEPTED] + counts[Status.LATE]),
            duplicates=int(counts[Status.DUPLICATE]),
            model=self.model,
        )
        listed = np.flatnonzero((answer.status != Status.ACCEPTED) & (answer.status != Status.DUPLICATE))
        if len(listed):
            results = ResultWriter(answer)
            response.failures.extend(results.message(row, row) for row in listed.tolist())
        if answer.predictions is None:
            return response.SerializeToString()
        if columnar:
            response.columns.CopyFrom(self._columns(answer, answer.predictions))
            return response.SerializeToString()
        rows = self._prediction_fields(answer, answer.predictions, STREAM_PREDICTIONS_TAG)
        return b"".join([response.SerializeToString(), *rows])

    def rank_response(self, ranked: Ranked) -> pb.RankResponse:
        """Ranked items with their ids."""
        ids = self._item_ids(ranked.rows)
        return pb.RankResponse(
            items=[pb.ItemScore(item_id=i, score=s) for i, s in zip(ids, ranked.scores.tolist(), strict=True)],
            model=self.model,
            events_seen=ranked.events_seen,
        )

    def _prediction_fields(self, answer: Answer, columns: Predictions, tag: bytes) -> list[bytes]:
        item_ids = [] if columns.item_rows is None else self._item_ids(np.maximum(columns.item_rows, 0).reshape(-1))
        return self._writer.fields(answer, columns, item_ids, tag)

    def _columns(self, answer: Answer, columns: Predictions) -> pb.PredictionColumns:
        batch = answer.arrival.batch
        want = answer.arrival.calls[0].options.want
        message = pb.PredictionColumns(event_index=columns.row.tolist())
        message.user_ids.extend(ids_of(batch.user_id, columns.row))
        message.anonymous_ids.extend(ids_of(batch.anonymous_id, columns.row))
        if columns.embedding is not None and want & Want.EMBEDDING:
            message.embedding.CopyFrom(tensor(columns.embedding))
        if columns.actions is not None and want & Want.ACTIONS:
            message.actions.CopyFrom(tensor(columns.actions))
            message.action_names.extend(self._actions)
        if columns.item_rows is not None and columns.item_scores is not None and want & Want.ITEMS:
            message.item_ids.extend(self._item_ids(np.maximum(columns.item_rows, 0).reshape(-1)))
            message.item_scores.CopyFrom(tensor(columns.item_scores))
        return message


def tensor(matrix: NDArray[np.float32]) -> pb.Tensor:
    """A float32 matrix as the contract's Tensor."""
    data = np.ascontiguousarray(matrix, dtype="<f4").tobytes()
    return pb.Tensor(dtype="FP32", shape=matrix.shape, data=data)
