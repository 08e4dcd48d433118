import threading

import numpy as np
from sequence_harness import CONTROLS, TIMEOUT, Accumulator, Call, harness, model_spec

from nextact_server.inference.infer_errors import ErrorCode, InferError
from nextact_server.inference.infer_request import InferRequest, InferResponse
from nextact_server.inference.infer_spec import SequenceBatching

DIRECT = SequenceBatching("direct", controls=CONTROLS)


def test_closing_answers_all_that_was_taken_also_those_that_wait_for_a_slot() -> None:
    with harness(model_spec(DIRECT, max_batch_size=1), instances=2) as h:
        calls = [h.call(id, id, "start") for id in range(1, 9)]
        calls += [h.call(id, 10) for id in range(1, 9)]
        closing = threading.Thread(target=h.scheduler.close)
        closing.start()
        assert [call.out() for call in calls] == [*range(1, 9), *range(11, 19)]
        closing.join(TIMEOUT)
        assert not closing.is_alive()


def test_closing_does_not_hang_on_a_request_that_is_cancelled_meanwhile() -> None:
    with harness(model_spec(DIRECT, max_batch_size=1), instances=2) as h:
        h.model.hold()
        running = h.call(1, 1, "start")
        h.model.wait_entered()
        waiting = h.call(1, 2)
        closing = threading.Thread(target=h.scheduler.close)
        closing.start()
        waiting.request.cancel()
        assert waiting.error().code is ErrorCode.CANCELLED
        h.model.release()
        assert running.out() == 1
        closing.join(TIMEOUT)
        assert not closing.is_alive()


def test_a_model_that_exits_answers_with_an_error_and_the_next_request_works() -> None:
    class Leaving(Accumulator):
        def execute(self, requests, times):  # type: ignore[no-untyped-def]
            if requests[0].inputs["IN"].item() == 13:
                raise SystemExit(3)
            return super().execute(requests, times)

    with harness(model_spec(DIRECT), models=[Leaving()]) as h:
        assert h.call(1, 13, "start").error().code is ErrorCode.INTERNAL
        assert h.call(2, 3, "start").out() == 3


def test_closing_without_draining_refuses_what_waits_and_finishes_what_runs() -> None:
    with harness(model_spec(DIRECT, max_batch_size=1)) as h:
        h.model.hold()
        running = h.call(1, 1, "start")
        h.model.wait_entered()
        waiting = [h.call(1, 2), h.call(2, 1, "start")]
        closing = threading.Thread(target=h.scheduler.close, kwargs={"drain": False})
        closing.start()
        assert [call.error().code for call in waiting] == [ErrorCode.UNAVAILABLE] * 2
        h.model.release()
        assert running.out() == 1
        closing.join(TIMEOUT)
        assert not closing.is_alive()


def test_a_closed_scheduler_refuses_in_tritons_words() -> None:
    with harness(model_spec(DIRECT)) as h:
        h.call(1, 1, "start").out()
        h.scheduler.close()
        error = h.call(1, 1).error()
        assert error.code is ErrorCode.UNAVAILABLE
        assert error.message == ("Server is stopping, scheduler for model has stopped accepting new inference requests")


def test_closing_does_not_wait_for_a_delay() -> None:
    batching = SequenceBatching("oldest", max_candidate_sequences=4, max_queue_delay_us=10**9)
    with harness(model_spec(batching)) as h:
        call = h.call(1, 1, "start")
        h.scheduler.close()
        assert call.out() == 1


def test_a_sink_that_raises_does_not_stop_the_model() -> None:
    class Bad(Call):
        def respond(self, request: InferRequest, response: InferResponse | InferError | None, final: bool) -> None:
            raise RuntimeError("sink")

    with harness(model_spec(DIRECT)) as h:
        bad = Bad(None)  # type: ignore[arg-type]
        bad.request = InferRequest({"IN": np.ones((1, 1), np.int32)}, bad, correlation_id=1, sequence_start=True)
        h.statistics.entered(1)
        h.scheduler.submit([bad.request])
        assert h.call(2, 3, "start").out() == 3


class Generator(Accumulator):
    """Gives numbers down to 0, one per execution."""

    def execute(self, requests, times):  # type: ignore[no-untyped-def]
        self.batches.append([{name: tensor.tolist() for name, tensor in r.inputs.items()} for r in requests])
        self._entered.release()
        for request in requests:
            left = int(request.inputs["IN"].item())
            request.respond(InferResponse({"OUT": request.inputs["IN"]}), final=not left)
            if left:
                request.inputs["IN"] = request.inputs["IN"] - 1
                request.reschedule = True
        return [None] * len(requests)


def test_an_iterative_request_runs_until_its_model_does_not_reschedule_it_and_shares_batches() -> None:
    batching = SequenceBatching("oldest", controls=CONTROLS, iterative=True, max_candidate_sequences=4)
    with harness(model_spec(batching, decoupled=True), models=[Generator()]) as h:
        long, short = h.calls((0, 3, ""), (0, 1, ""))
        assert long.done.wait(TIMEOUT)
        assert short.done.wait(TIMEOUT)
        assert [answer.outputs["OUT"].item() for answer in long.answers] == [3, 2, 1, 0]  # type: ignore[union-attr]
        assert len(short.answers) == 2
        assert [len(batch) for batch in h.model.batches] == [2, 2, 1, 1]
        assert [batch[0]["START"] for batch in h.model.batches] == [[[1]], [[0]], [[0]], [[0]]]
        assert h.statistics.snapshot().inference_count == 6


def test_an_iterative_request_that_was_cancelled_is_not_run_again() -> None:
    class Endless(Generator):
        def execute(self, requests, times):  # type: ignore[no-untyped-def]
            self._entered.release()
            assert self._open.wait(TIMEOUT)
            for request in requests:
                request.reschedule = True
            return [None] * len(requests)

    batching = SequenceBatching("direct", iterative=True)
    with harness(model_spec(batching, decoupled=True, max_batch_size=1), models=[Endless()]) as h:
        h.model.hold()
        call = h.call(0, 3)
        h.model.wait_entered()
        call.request.cancel()
        h.model.release()
        assert call.error().code is ErrorCode.CANCELLED
