"""From what the rooms answered to the contract's messages."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nextact.v1 import behavior_pb2 as pb
from nextact_server.events.call import Answer, Predictions, Want
from nextact_server.events.status import Status
from nextact_server.sequence.stage import Ranked

# As plain numbers: operators of enums are slow, and these run per event.
EMBEDDING, ACTIONS, ITEMS = int(Want.EMBEDDING), int(Want.ACTIONS), int(Want.ITEMS)
ACCEPTED, INVALID, SUPPRESSED = int(Status.ACCEPTED), int(Status.INVALID), int(Status.SUPPRESSED)

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
        self._item_ids = item_ids
        self._durability = DURABILITY[durability]

    def predict_responses(self, answer: Answer, queue_us: int, store_us: int) -> list[pb.PredictResponse]:
        """One response per call of the arrival. `history` rows of stateless calls have no result."""
        timing = pb.Timing(queue_us=queue_us, compute_us=answer.compute_us, store_us=store_us)
        results = _Results(answer)
        responses = []
        for call in answer.arrival.calls:
            response = pb.PredictResponse(model=self.model, timing=timing, durability=self._durability)
            results.write(response.results, call.start + call.history, call.stop)
            responses.append(response)
        self._write_predictions(answer, [response.predictions for response in responses])
        return responses

    def stream_response(self, number: int, answer: Answer, *, columnar: bool) -> pb.StreamEventsResponse:
        """The acknowledgement of a stream message."""
        counts = np.bincount(answer.status, minlength=len(Status) + 1)
        listed = np.flatnonzero((answer.status != Status.ACCEPTED) & (answer.status != Status.DUPLICATE))
        response = pb.StreamEventsResponse(
            number=number,
            accepted=int(counts[Status.ACCEPTED] + counts[Status.LATE]),
            duplicates=int(counts[Status.DUPLICATE]),
            model=self.model,
        )
        if len(listed):
            results = _Results(answer)
            for row in listed.tolist():
                results.write_one(response.failures.add(), row, row)
        if answer.predictions is not None:
            if columnar:
                response.columns.CopyFrom(self._columns(answer, answer.predictions))
            else:
                self._write_predictions(answer, [response.predictions])
        return response

    def rank_response(self, ranked: Ranked) -> pb.RankResponse:
        """Ranked items with their ids."""
        ids = self._item_ids(ranked.rows)
        return pb.RankResponse(
            items=[pb.ItemScore(item_id=i, score=s) for i, s in zip(ids, ranked.scores.tolist(), strict=True)],
            model=self.model,
            events_seen=ranked.events_seen,
        )

    def _write_predictions(self, answer: Answer, into: Sequence[Any]) -> None:
        """Adds each prediction to the repeated field of its call, in place: a message given to another is copied."""
        columns = answer.predictions
        if columns is None:
            return
        calls = answer.arrival.calls
        embedding = None if columns.embedding is None else columns.embedding.tolist()
        actions = self._ranked_actions(columns)
        users = _ids(answer.arrival.batch.user_id, columns.row)
        visitors = _ids(answer.arrival.batch.anonymous_id, columns.row)
        rows = zip(columns.call.tolist(), columns.row.tolist(), columns.events_seen.tolist(), strict=True)
        for at, (number, row, events_seen) in enumerate(rows):
            call = calls[number]
            want = call.options.want
            prediction = into[number].add(
                user_id=users[at], events_seen=events_seen, event_index=row - call.start - call.history
            )
            if not users[at]:
                prediction.anonymous_id = visitors[at]
            if embedding is not None and want & EMBEDDING:
                prediction.embedding.extend(embedding[at])
            if actions is not None and want & ACTIONS:
                for name, score in actions[at]:
                    prediction.actions.add(action=name, score=score)
            if columns.item_rows is not None and want & ITEMS:
                self._write_items(columns, at, prediction.items)

    def _ranked_actions(self, columns: Predictions) -> list[list[tuple[str, float]]] | None:
        if columns.actions is None:
            return None
        order = np.argsort(-columns.actions, axis=1, kind="stable")
        scores = np.take_along_axis(columns.actions, order, axis=1)
        names = self._actions
        return [
            [(names[i], score) for i, score in zip(best, values, strict=True)]
            for best, values in zip(order.tolist(), scores.tolist(), strict=True)
        ]

    def _write_items(self, columns: Predictions, at: int, into: Any) -> None:
        assert columns.item_rows is not None
        assert columns.item_scores is not None
        kept = columns.item_rows[at] >= 0
        ids = self._item_ids(columns.item_rows[at][kept])
        for item_id, score in zip(ids, columns.item_scores[at][kept].tolist(), strict=True):
            into.add(item_id=item_id, score=score)

    def _columns(self, answer: Answer, columns: Predictions) -> pb.PredictionColumns:
        batch = answer.arrival.batch
        want = answer.arrival.calls[0].options.want
        message = pb.PredictionColumns(event_index=columns.row.tolist())
        message.user_ids.extend(_ids(batch.user_id, columns.row))
        message.anonymous_ids.extend(_ids(batch.anonymous_id, columns.row))
        if columns.embedding is not None and want & Want.EMBEDDING:
            message.embedding.CopyFrom(tensor(columns.embedding))
        if columns.actions is not None and want & Want.ACTIONS:
            message.actions.CopyFrom(tensor(columns.actions))
            message.action_names.extend(self._actions)
        if columns.item_rows is not None and columns.item_scores is not None and want & Want.ITEMS:
            message.item_ids.extend(self._item_ids(np.maximum(columns.item_rows, 0).reshape(-1)))
            message.item_scores.CopyFrom(tensor(columns.item_scores))
        return message


class _Results:
    """Writes EventResults of an answer's rows."""

    def __init__(self, answer: Answer) -> None:
        self._ids = answer.arrival.message_ids.to_pylist()
        self._derived = answer.arrival.derived.tolist()
        self._status = answer.status.tolist()
        self._original = answer.original.tolist()
        self._applied = answer.applied.tolist()
        self._faults = answer.arrival.faults

    def write(self, into: Any, start: int, stop: int) -> None:
        """Adds the results of rows start..stop, numbered from 0."""
        for row in range(start, stop):
            self.write_one(into.add(), row, row - start)

    def write_one(self, result: pb.EventResult, row: int, index: int) -> None:
        """Fills one result."""
        status = self._status[row]
        result.index = index
        result.message_id = self._ids[row]
        result.status = status
        result.applied = self._applied[row]
        result.id_derived = self._derived[row]
        if status == ACCEPTED:
            return
        result.original_status = self._original[row]
        fault = self._faults.get(row)
        if fault is not None:
            result.reason, result.field = fault.reason, fault.field
        elif status == SUPPRESSED:
            result.reason, result.field = "the user asked not to be recorded", "user_id"
        elif status == INVALID:
            result.reason = "the call was taken back"


def tensor(matrix: NDArray[np.float32]) -> pb.Tensor:
    """A float32 matrix as the contract's Tensor."""
    data = np.ascontiguousarray(matrix, dtype="<f4").tobytes()
    return pb.Tensor(dtype="FP32", shape=matrix.shape, data=data)


def _ids(column: pa.Array | None, rows: NDArray[np.int64]) -> list[str]:
    if column is None:
        return [""] * len(rows)
    return [value or "" for value in column.take(pa.array(rows)).to_pylist()]
