"""What the next-action model answers to a tensor request: outcomes and predictions, a row per event."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from nextact_server.events.call import Answer, CallOptions, Per, Want
from nextact_server.events.status import Status
from nextact_server.inference.infer_errors import invalid_argument
from nextact_server.inference.infer_request import InferRequest, InferResponse, Parameter
from nextact_server.inference.tensors import Tensor

__all__ = [
    "ACTIONS",
    "EMBEDDING",
    "EVENTS_SEEN",
    "EXPECTED_GAP",
    "ITEM_IDS",
    "ITEM_SCORES",
    "LEAVE_PROBABILITY",
    "REASON",
    "STATUS",
    "NextActionOutputs",
]

STATUS, REASON, EMBEDDING, ACTIONS = "status", "reason", "embedding", "action_scores"
ITEM_IDS, ITEM_SCORES, EVENTS_SEEN = "item_ids", "item_scores", "events_seen"
EXPECTED_GAP, LEAVE_PROBABILITY = "expected_gap_s", "leave_probability"

WANTS = {
    EMBEDDING: Want.EMBEDDING,
    ACTIONS: Want.ACTIONS,
    ITEM_IDS: Want.ITEMS,
    ITEM_SCORES: Want.ITEMS,
    EXPECTED_GAP: Want.NEXT,
    LEAVE_PROBABILITY: Want.NEXT,
}
TOP_K = "top_k"
NAMES = np.array([b"", *(status.name.encode() for status in Status)], np.object_)
"""Names of the statuses, by number."""


class NextActionOutputs:
    """Reads what a request asks for, and writes its outputs.

    `status` and `reason` BYTES [n, 1] say what became of each row's event; `embedding` FP32 [n, D], `action_scores`
    FP32 [n, A], `item_ids` BYTES [n, top_k] with `item_scores` FP32 [n, top_k] (padded with '' and -inf) and
    `events_seen` INT64 [n, 1] are the user's after it: zeros and '' for one whose events are suppressed. A model
    without actions has no `action_scores`; one that `foretells_next` events also answers `expected_gap_s` and
    `leave_probability`, FP32 [n, 1], as of the row's event.
    """

    def __init__(
        self,
        item_ids: Callable[[NDArray[np.int64]], list[str]],
        *,
        embedding_dim: int,
        actions: int,
        default_top_k: int,
        max_top_k: int,
        foretells_next: bool = False,
    ) -> None:
        self._item_ids = item_ids
        self._embedding_dim = embedding_dim
        self._actions = actions
        self._default_top_k = default_top_k
        self._max_top_k = max_top_k
        self._foretells_next = foretells_next
        self._known = lru_cache(maxsize=256)(self._options)

    def options(self, request: InferRequest) -> CallOptions:
        """What the outputs and parameters of a request ask of the model. Raises InferError for a bad `top_k`."""
        return self._known(tuple(request.output_names), _top_k(request.parameters, self._default_top_k))

    def _options(self, names: tuple[str, ...], top_k: int) -> CallOptions:
        if not 1 <= top_k <= self._max_top_k:
            raise invalid_argument(f"parameter '{TOP_K}' is {top_k}; 1 to {self._max_top_k} are allowed (max_top_k)")
        want = Want.NOTHING
        for name in names or WANTS:
            want |= WANTS.get(name, Want.NOTHING)
        return CallOptions(top_k=top_k, want=int(want), per=Per.USER, at_event=True)

    def responses(self, answer: Answer, requests: Sequence[InferRequest]) -> list[InferResponse]:
        """The responses to requests whose rows, in order, are the rows of the answer."""
        columns = self._columns(answer)
        responses: list[InferResponse] = []
        start = 0
        for request in requests:
            stop = start + request.batch_size
            outputs = {name: column[start:stop] for name, column in columns.items()}
            top_k = _top_k(request.parameters, self._default_top_k)
            for name in (ITEM_IDS, ITEM_SCORES):
                if name in outputs:
                    outputs[name] = outputs[name][:, :top_k]
            responses.append(InferResponse(outputs))
            start = stop
        return responses

    def _columns(self, answer: Answer) -> dict[str, Tensor]:
        rows = len(answer.status)
        columns: dict[str, Tensor] = {STATUS: NAMES[answer.status].reshape(rows, 1), REASON: _reasons(answer)}
        predictions = answer.predictions
        # The row of a prediction's call; one call may also be all rows of a request, which then all get its prediction.
        source = np.full(rows, -1, np.int64)
        if predictions is not None:
            for at, call in enumerate(predictions.call.tolist()):
                source[answer.arrival.calls[call].start : answer.arrival.calls[call].stop] = at
        known = source >= 0

        def spread(values: Tensor | None, width: int, empty: object) -> Tensor:
            if values is None:  # not asked for, so not computed
                return np.full((rows, width), empty, np.float32)
            column = np.full((rows, width), empty, values.dtype)
            column[known] = values[source[known]]
            return column

        seen = np.zeros(0, np.int64) if predictions is None else predictions.events_seen
        columns[EVENTS_SEEN] = spread(seen.reshape(-1, 1), 1, 0)
        embedding = None if predictions is None else predictions.embedding
        scores = None if predictions is None else predictions.actions
        columns[EMBEDDING] = spread(embedding, self._embedding_dim, 0)
        if self._actions:
            columns[ACTIONS] = spread(scores, self._actions, 0)
        if self._foretells_next:
            coming = None if predictions is None else predictions.next
            for name in (EXPECTED_GAP, LEAVE_PROBABILITY):
                columns[name] = spread(None if coming is None else getattr(coming, name).reshape(-1, 1), 1, 0)
        if predictions is None or predictions.item_rows is None or predictions.item_scores is None:
            top_k = max(call.options.top_k for call in answer.arrival.calls)
            columns[ITEM_IDS] = np.full((rows, top_k), b"", np.object_)
            columns[ITEM_SCORES] = np.full((rows, top_k), -np.inf, np.float32)
            return columns
        top_k = predictions.item_rows.shape[1]
        columns[ITEM_SCORES] = spread(predictions.item_scores, top_k, -np.inf)
        columns[ITEM_IDS] = spread(self._ids(predictions.item_rows), top_k, b"")
        return columns

    def _ids(self, item_rows: NDArray[np.int64]) -> Tensor:
        flat = np.maximum(item_rows, 0).reshape(-1)
        ids = np.empty(len(flat), np.object_)
        ids[:] = [item_id.encode() for item_id in self._item_ids(flat)]
        return ids.reshape(item_rows.shape)


def _reasons(answer: Answer) -> Tensor:
    reasons = np.full((len(answer.status), 1), b"", np.object_)
    for row, fault in answer.arrival.faults.items():
        reasons[row, 0] = f"{fault.field}: {fault.reason}".encode()
    return reasons


def _top_k(parameters: Mapping[str, Parameter], default: int) -> int:
    given = parameters.get(TOP_K, default)
    if isinstance(given, bool) or not isinstance(given, int):
        raise invalid_argument(f"parameter '{TOP_K}' is {given!r}; a whole number is expected")
    return given
