"""The next-action model as a tensor model: its sequences are users, and their state is the one that Predict moves.

A request's correlation id N or 'N' names the user 'N'; its rows are events of that user, in order. Start, end and idle
limits of sequences mean nothing here: a user's state is stored, and nothing but events and erasure changes it.
"""

import time
import uuid
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa

from nextact_server.events.batch import EventBatch
from nextact_server.events.call import Answer, Call
from nextact_server.inference.infer_errors import InferError, cancelled, invalid_argument
from nextact_server.inference.infer_request import InferRequest
from nextact_server.inference.instance import StageTimes
from nextact_server.inference.statistics import ModelStatistics
from nextact_server.own_models.next_action_outputs import NextActionOutputs
from nextact_server.own_models.refusals import refusal
from nextact_server.pipeline import CallsApart, Submission

__all__ = ["ACTION", "EVENT_TIME", "ITEM_ID", "MESSAGE_ID", "NextActionScheduler", "Users"]

ACTION, ITEM_ID, EVENT_TIME, MESSAGE_ID = "action", "item_id", "event_time_us", "message_id"


class Users(Protocol):
    """What is needed of `pipeline.Pipeline`."""

    def submit(self, batch: EventBatch, calls: Sequence[Call], epoch: int | None = None) -> Submission: ...
    def withdraw(self, submission: Submission, call: int = 0) -> None: ...


class NextActionScheduler:
    """Applies requests' rows as events and answers with what is expected next.

    Requests that arrive together take one step together. Each row is a call of its own, so that its outputs are those
    after just that event, whatever became of it.
    """

    def __init__(
        self, users: Users, outputs: NextActionOutputs, statistics: ModelStatistics, *, name: str, max_rows: int
    ) -> None:
        self._users = users
        self._outputs = outputs
        self._statistics = statistics
        self._name = name
        self._max_rows = max_rows

    def submit(self, requests: Sequence[InferRequest]) -> None:
        """Submit all that are sound as one; what is not is answered at once."""
        taken: list[_Rows] = []
        for request in requests:
            try:
                taken.append(self._read(request))
            except Exception as error:
                self._refuse(request, refusal(error))
        if taken:
            self._submit(taken)

    def close(self, *, drain: bool = True) -> None:
        """Nothing waits here: the pipeline answers what it took when it closes."""

    def _read(self, request: InferRequest) -> "_Rows":
        if not request.correlation_id:
            raise invalid_argument(
                f"inference request to model '{self._name}' must specify a non-zero or non-empty correlation ID"
            )
        if request.batch_size > self._max_rows:
            raise invalid_argument(
                f"inference request to model '{self._name}' has {request.batch_size} rows; at most {self._max_rows} "
                "events are taken at once (max_predict_events)"
            )
        return _Rows(request, self._outputs)

    def _submit(self, taken: "Sequence[_Rows]") -> None:
        started_ns = time.monotonic_ns()
        try:
            calls = [
                Call(start, start + 1, rows.options)
                for start, rows in enumerate(rows for rows in taken for _ in range(len(rows)))
            ]
            submission = self._users.submit(_batch(taken), calls)
        except CallsApart:
            self._submit_apart(taken)
        except Exception as error:
            if len(taken) > 1:  # what is too much at once, or one caller's fault, must not be the others' fate
                for rows in taken:
                    self._submit([rows])
            else:
                self._refuse(taken[0].request, refusal(error))
        else:
            self._follow(taken, submission, started_ns)

    def _submit_apart(self, taken: "Sequence[_Rows]") -> None:
        """Some user's earlier events still wait: each request goes by itself, and one of several rows as one call.

        Then every row gets the outputs after the request's last event, for only calls that wait for nobody can be told
        apart within a step.
        """
        for rows in taken:
            started_ns = time.monotonic_ns()
            try:
                submission = self._users.submit(_batch([rows]), [Call(0, len(rows), rows.options)])
            except Exception as error:
                self._refuse(rows.request, refusal(error))
            else:
                self._follow([rows], submission, started_ns)

    def _follow(self, taken: "Sequence[_Rows]", submission: Submission, started_ns: int) -> None:
        first = 0
        for rows in taken:
            rows.request.on_cancel = _Withdrawal(self._users, submission, range(first, first + len(rows)))
            first += len(rows)

        def done(_: object) -> None:
            self._settle(taken, submission, started_ns)

        submission.future.add_done_callback(done)

    def _settle(self, taken: "Sequence[_Rows]", submission: Submission, started_ns: int) -> None:
        requests = [rows.request for rows in taken]
        try:
            if submission.future.cancelled():
                raise cancelled("the caller went away")
            answer: Answer = submission.future.result()
            output_ns = time.monotonic_ns()
            responses = self._outputs.responses(answer, requests)
        except Exception as error:
            for request in requests:
                self._refuse(request, refusal(error))
            return
        times = StageTimes()
        times.infer_ns = answer.compute_us * 1000
        times.output_ns = time.monotonic_ns() - output_ns
        self._statistics.executed(requests, started_ns + submission.queue_us * 1000, times)
        for request, response in zip(requests, responses, strict=True):
            # A caller who left in time left no event behind; to one who left too late it is all the same.
            request.respond(cancelled("the caller went away") if request.is_cancelled else response)

    def _refuse(self, request: InferRequest, error: InferError) -> None:
        self._statistics.left(1)
        request.respond(error)


class _Withdrawal:
    """Takes a request's calls back when its caller goes away; what is in a step already is kept."""

    def __init__(self, users: Users, submission: Submission, calls: range) -> None:
        self._users = users
        self._submission = submission
        self._calls = calls

    def __call__(self) -> None:
        for call in self._calls:
            self._users.withdraw(self._submission, call)


class _Rows:
    """One request's rows as columns of events. Raises InferError for what no event can be made of."""

    def __init__(self, request: InferRequest, outputs: NextActionOutputs) -> None:
        self.request = request
        self.options = outputs.options(request)
        self.user_id = str(request.correlation_id)
        size = request.batch_size
        self.action = self._strings(ACTION) or [""] * size
        self.item_id = self._strings(ITEM_ID) or [""] * size
        # An id of its own for each row that brings none: equal events are then two events, not one sent twice.
        self.message_id = [given or uuid.uuid4().hex for given in self._strings(MESSAGE_ID) or [""] * size]
        times = request.inputs.get(EVENT_TIME)
        self.event_time = (
            np.full(size, time.time_ns() // 1000, np.int64) if times is None else times.reshape(-1).astype(np.int64)
        )

    def __len__(self) -> int:
        return self.request.batch_size

    def _strings(self, name: str) -> list[str] | None:
        tensor = self.request.inputs.get(name)
        if tensor is None:
            return None
        try:
            return [value.decode() for value in tensor.reshape(-1).tolist()]
        except UnicodeDecodeError as error:
            raise invalid_argument(f"input '{name}' is not valid UTF-8: {error.reason}") from error


def _batch(taken: Sequence[_Rows]) -> EventBatch:
    def strings(name: str) -> pa.Array:
        return pa.array([value for rows in taken for value in getattr(rows, name)], pa.string())

    return EventBatch(
        size=sum(len(rows) for rows in taken),
        event_time=np.concatenate([rows.event_time for rows in taken]),
        user_id=pa.array([rows.user_id for rows in taken for _ in range(len(rows))], pa.string()),
        message_id=strings("message_id"),
        action=strings("action"),
        item_id=strings("item_id"),
    )
