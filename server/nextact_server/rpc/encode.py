"""From what the rooms answered to the contract's messages."""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nextact.v1 import behavior_pb2 as pb
from nextact_server.events.call import Answer, Predictions, Want
from nextact_server.events.status import Fault, Status
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
        self._item_ids = item_ids
        self._durability = DURABILITY[durability]

    def predict_responses(self, answer: Answer, queue_us: int, store_us: int) -> list[pb.PredictResponse]:
        """One response per call of the arrival. `history` rows of stateless calls have no result."""
        timing = pb.Timing(queue_us=queue_us, compute_us=answer.compute_us, store_us=store_us)
        predictions = self._predictions(answer)
        by_call: list[list[pb.Prediction]] = [[] for _ in answer.arrival.calls]
        for call, prediction in predictions:
            by_call[call].append(prediction)
        results = _Results(answer)
        return [
            pb.PredictResponse(
                results=results.of(call.start + call.history, call.stop),
                predictions=by_call[number],
                model=self.model,
                timing=timing,
                durability=self._durability,
            )
            for number, call in enumerate(answer.arrival.calls)
        ]

    def stream_response(self, number: int, answer: Answer, *, columnar: bool) -> pb.StreamEventsResponse:
        """The acknowledgement of a stream message."""
        counts = np.bincount(answer.status, minlength=len(Status) + 1)
        results = _Results(answer)
        listed = np.flatnonzero((answer.status != Status.ACCEPTED) & (answer.status != Status.DUPLICATE))
        response = pb.StreamEventsResponse(
            number=number,
            accepted=int(counts[Status.ACCEPTED] + counts[Status.LATE]),
            duplicates=int(counts[Status.DUPLICATE]),
            failures=[results.one(row, row) for row in listed.tolist()],
            model=self.model,
        )
        if answer.predictions is not None:
            if columnar:
                response.columns.CopyFrom(self._columns(answer, answer.predictions))
            else:
                response.predictions.extend(prediction for _, prediction in self._predictions(answer))
        return response

    def rank_response(self, ranked: Ranked) -> pb.RankResponse:
        """Ranked items with their ids."""
        ids = self._item_ids(ranked.rows)
        return pb.RankResponse(
            items=[pb.ItemScore(item_id=i, score=s) for i, s in zip(ids, ranked.scores.tolist(), strict=True)],
            model=self.model,
            events_seen=ranked.events_seen,
        )

    def _predictions(self, answer: Answer) -> list[tuple[int, pb.Prediction]]:
        columns = answer.predictions
        if columns is None:
            return []
        batch, calls = answer.arrival.batch, answer.arrival.calls
        embedding = None if columns.embedding is None else columns.embedding.tolist()
        scored = self._scored_actions(columns)
        made = []
        rows = zip(columns.call.tolist(), columns.row.tolist(), columns.events_seen.tolist(), strict=True)
        for at, (call, row, events_seen) in enumerate(rows):
            want = calls[call].options.want
            user = "" if batch.user_id is None else batch.user_id[row].as_py() or ""
            prediction = pb.Prediction(
                user_id=user,
                embedding=embedding[at] if embedding is not None and want & Want.EMBEDDING else None,
                actions=scored[at] if scored is not None and want & Want.ACTIONS else None,
                items=self._items(columns, at) if columns.item_rows is not None and want & Want.ITEMS else None,
                events_seen=events_seen,
                event_index=row - calls[call].start - calls[call].history,
            )
            if not user and batch.anonymous_id is not None:
                prediction.anonymous_id = batch.anonymous_id[row].as_py() or ""
            made.append((call, prediction))
        return made

    def _scored_actions(self, columns: Predictions) -> list[list[pb.ActionScore]] | None:
        if columns.actions is None:
            return None
        order = np.argsort(-columns.actions, axis=1, kind="stable")
        scores = np.take_along_axis(columns.actions, order, axis=1)
        names = self._actions
        return [
            [pb.ActionScore(action=names[i], score=s) for i, s in zip(best, values, strict=True)]
            for best, values in zip(order.tolist(), scores.tolist(), strict=True)
        ]

    def _items(self, columns: Predictions, at: int) -> list[pb.ItemScore]:
        assert columns.item_rows is not None
        assert columns.item_scores is not None
        kept = columns.item_rows[at] >= 0
        ids = self._item_ids(columns.item_rows[at][kept])
        scores = columns.item_scores[at][kept].tolist()
        return [pb.ItemScore(item_id=i, score=s) for i, s in zip(ids, scores, strict=True)]

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
    """Makes EventResults of an answer's rows."""

    def __init__(self, answer: Answer) -> None:
        self._ids = answer.arrival.message_ids
        self._derived = answer.arrival.derived.tolist()
        self._status = answer.status.tolist()
        self._original = answer.original.tolist()
        self._applied = answer.applied.tolist()
        self._faults = answer.arrival.faults

    def of(self, start: int, stop: int) -> list[pb.EventResult]:
        return [self.one(row, row - start) for row in range(start, stop)]

    def one(self, row: int, index: int) -> pb.EventResult:
        status = self._status[row]
        result = pb.EventResult(
            index=index,
            message_id=self._ids[row].as_py(),
            status=status,
            original_status=self._original[row],
            applied=self._applied[row],
            id_derived=self._derived[row],
        )
        if status in (Status.INVALID, Status.OVERLOADED):
            fault = self._faults.get(row, _UNKNOWN)
            result.reason, result.field = fault.reason, fault.field
        elif status == Status.SUPPRESSED:
            result.reason, result.field = "the user asked not to be recorded", "user_id"
        return result


_UNKNOWN = Fault("", "the call was taken back")


def tensor(matrix: NDArray[np.float32]) -> pb.Tensor:
    """A float32 matrix as the contract's Tensor."""
    data = np.ascontiguousarray(matrix, dtype="<f4").tobytes()
    return pb.Tensor(dtype="FP32", shape=matrix.shape, data=data)


def _ids(column: pa.Array | None, rows: NDArray[np.int64]) -> list[str]:
    if column is None:
        return [""] * len(rows)
    return [value or "" for value in column.take(pa.array(rows)).to_pylist()]
