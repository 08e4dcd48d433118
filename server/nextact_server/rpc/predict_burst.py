"""Predict in bursts: one pass decodes the calls into one batch and one step answers them."""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from nextact.v1 import behavior_pb2 as pb
from nextact_server.events.call import Answer, Call
from nextact_server.pipeline import Pipeline, Submission
from nextact_server.rpc.burst import Answers
from nextact_server.rpc.decode import PredictReader, event_columns, has_content, parse
from nextact_server.rpc.encode import Encoder
from nextact_server.rpc.errors import CallError, as_call_error
from nextact_server.rpc.limits import Limits

__all__ = ["PredictBurst"]


class _Predict(NamedTuple):
    """One decoded Predict call."""

    call_id: int
    request: pb.PredictRequest


class PredictBurst:
    """See `Burst`. Answers are encoded on the thread that made them."""

    def __init__(self, pipeline: Pipeline, encoder: Encoder, limits: Limits, answers: Answers) -> None:
        self._pipeline = pipeline
        self._encoder = encoder
        self._reader = PredictReader(limits)
        self._answers = answers
        self._open: dict[int, tuple[Submission, int]] = {}
        self._last: Future[Any] | None = None

    def read(self, payload: bytes) -> pb.PredictRequest:
        """Decode a call. Raises INVALID_ARGUMENT naming the field."""
        return parse(pb.PredictRequest, payload)

    def start(self, calls: Mapping[int, pb.PredictRequest]) -> None:
        """Submit calls, as many together as may be."""
        together: list[_Predict] = []
        for call_id, request in calls.items():
            predict = _Predict(call_id, request)
            if request.history or request.options.dry_run or has_content(request.events):
                self._submit(together)  # what came before it takes its turn before it
                together = []
                self._submit([predict])
            else:
                together.append(predict)
        # Only what needs nothing else beforehand goes through its step at once, and is worth waiting for.
        self._last = self._submit(together)

    def wait(self) -> None:
        """Read no further until the burst went through its step, and was answered if that is possible at once.

        What arrives meanwhile gathers in the front and makes one burst: reading it call by call would only compete with
        the step for the interpreter, and make small batches. A burst that waits for its turn is not waited for.
        """
        queued, self._last = self._last, None
        if queued is not None:
            stepped = threading.Lock()
            stepped.acquire()
            # Callbacks run in the order they were added, and the one that answers was there first.
            queued.add_done_callback(lambda _: stepped.release())
            stepped.acquire()

    def cancel(self, call_id: int) -> bool:
        """Take a call out of its submission."""
        opened = self._open.pop(call_id, None)
        if opened is None:
            return False
        self._pipeline.withdraw(*opened)
        return True

    def unanswered(self) -> "list[asyncio.Future[Any]]":
        """A future per open call."""
        answers = [asyncio.wrap_future(submission.future) for submission, _ in list(self._open.values())]
        for answer in answers:  # what went wrong is told to its caller, and must not be complained of here too
            answer.add_done_callback(lambda done: done.cancelled() or done.exception())
        return answers

    def abandon(self, error: CallError) -> None:
        """End every open call."""
        for call_id, opened in list(self._open.items()):
            self._answers.fail(call_id, error)
            self._pipeline.withdraw(*opened)

    def _submit(self, predicts: Sequence[_Predict]) -> Future[Any] | None:
        """Submit calls as one; the future is done when they went through their step. None: they were all refused."""
        taken: list[_Predict] = []
        calls: list[Call] = []
        events: list[pb.Event] = []
        for predict in predicts:
            try:
                calls.append(self._reader.call(predict.request, len(events)))
            except CallError as error:
                self._answers.fail(predict.call_id, error)
                continue
            taken.append(predict)
            events.extend(predict.request.history)
            events.extend(predict.request.events)
        if not taken:
            return None
        try:
            submission = self._pipeline.submit(event_columns(events), calls)
        except Exception as error:
            return self._refused(taken, error)
        for number, predict in enumerate(taken):
            self._open[predict.call_id] = submission, number
        call_ids = [predict.call_id for predict in taken]
        submission.future.add_done_callback(lambda _: self._done(submission, call_ids))
        return submission.queued

    def _refused(self, predicts: Sequence[_Predict], error: Exception) -> Future[Any] | None:
        if len(predicts) == 1:
            self._answers.fail(predicts[0].call_id, as_call_error(error))
            return None
        last = None
        for predict in predicts:  # what one caller asked for, or is too much at once, must not be the others' fate
            last = self._submit([predict]) or last
        return last

    # Answers, on the thread that made them --------------------------------------------------------------------------

    def _done(self, submission: Submission, call_ids: Sequence[int]) -> None:
        try:
            self._answer(submission, call_ids)
        except Exception as error:
            failure = as_call_error(error)
            for call_id in call_ids:
                self._answers.fail(call_id, failure)
        for call_id in call_ids:  # not before: who stops the server waits for the answers to those that are open
            self._open.pop(call_id, None)

    def _answer(self, submission: Submission, call_ids: Sequence[int]) -> None:
        if submission.future.cancelled():
            return
        error = submission.future.exception()
        if error is not None:
            raise error
        answer: Answer = submission.future.result()
        responses = self._encoder.predict_responses(answer, submission.queue_us, submission.store_us)
        for call_id, response in zip(call_ids, responses, strict=True):
            self._answers.respond(call_id, response)
