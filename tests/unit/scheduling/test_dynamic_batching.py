"""Requests to a model that batches: its config's rules, Triton's words, and nobody lost."""

import gc
import weakref

import numpy as np
import pytest
from dynamic_harness import Doubler, Sink, bench, spec_of

from nextact_server.inference.infer_errors import invalid_argument
from nextact_server.inference.infer_request import InferRequest, InferResponse
from nextact_server.inference.infer_spec import (
    DynamicBatching,
    QueuePolicy,
    SequenceBatching,
    TensorSpec,
    TimeoutAction,
)
from nextact_server.inference.scheduling import dynamic
from nextact_server.inference.statistics import ModelStatistics
from nextact_server.inference.tensors import DataType


def policy(**settings):
    return DynamicBatching(default_queue_policy=QueuePolicy(**settings))


def test_what_waits_is_one_execution_of_at_most_max_batch_size_rows():
    with bench() as b:
        b.occupy()
        b.submit(*(b.request(name, rows) for name, rows in (("a", 1), ("bb", 2), ("ccc", 2), ("dddd", 1))))
        b.instance.release()
        for name, rows in (("a", 1), ("bb", 2), ("ccc", 2), ("dddd", 1)):
            b.doubled(name, rows)
        assert b.instance.batches == [["first"], ["a", "bb"], ["ccc", "dddd"]]
        counts = b.statistics.snapshot()
        assert (counts.inference_count, counts.execution_count) == (7, 3)


def test_without_dynamic_batching_every_request_is_an_execution():
    with bench(None) as b:
        b.occupy()
        b.submit(b.request("a", 3), b.request("bb", 4))
        b.instance.release()
        b.doubled("a", 3)
        b.doubled("bb", 4)
        assert b.instance.batches == [["first"], ["a"], ["bb"]]


def test_a_model_that_does_not_batch_runs_its_requests_one_by_one():
    with bench(None, most=0) as b:
        b.occupy()
        b.submit(b.request("a"), b.request("bb"))
        b.instance.release()
        b.doubled("a")
        b.doubled("bb")
        assert b.instance.batches == [["first"], ["a"], ["bb"]]


def test_a_lone_request_leaves_at_once_while_time_stands_still():
    with bench() as b:
        b.send("a")
        b.doubled("a")


def test_a_lone_request_never_pays_a_window_that_opened_before_it_came():
    with bench(DynamicBatching(max_queue_delay_us=5000)) as b:
        start = b.clock.monotonic()
        gone = b.send("gone")
        b.clock.wait_for_parked(start + 0.005)
        gone.cancel()
        b.clock.advance(0.004)
        b.send("lone")
        b.clock.wait_for_parked(start + 0.009)
        b.clock.advance(0.005)
        b.doubled("lone")
        assert b.instance.batches == [["lone"]]


def test_a_preferred_size_is_counted_in_rows():
    with bench(DynamicBatching((3,), max_queue_delay_us=5000)) as b:
        b.submit(b.request("a"), b.request("bb", 2))
        b.doubled("bb", 2)
        assert b.instance.batches == [["a", "bb"]]


def test_a_queue_timeout_is_answered_at_its_moment_while_the_model_is_busy_and_never_runs():
    with bench(policy(default_timeout_us=100_000)) as b:
        b.occupy()
        start = b.clock.monotonic()
        b.send("late")
        b.clock.wait_for_parked(start + 0.1)
        b.clock.advance(0.1)
        assert b.error("late") == ("UNAVAILABLE", "Request timeout expired")
        b.instance.release()
        b.send("after")
        b.doubled("after")
        assert b.instance.batches == [["first"], ["after"]]


def test_a_request_s_own_timeout_only_shortens_where_it_may():
    schedule = policy(default_timeout_us=100_000, allow_timeout_override=True)
    with bench(schedule) as b:
        b.occupy()
        b.send("short", timeout_us=50_000)
        b.send("longer", timeout_us=10_000_000)
        b.clock.advance(0.051)
        assert b.error("short")[0] == "UNAVAILABLE"
        assert "longer" not in b.sink.responses
        b.clock.advance(0.05)
        assert b.error("longer")[0] == "UNAVAILABLE"


@pytest.mark.parametrize("schedule", [DynamicBatching(), None])
def test_without_a_policy_a_request_s_timeout_says_nothing(schedule):
    with bench(schedule) as b:
        b.occupy()
        b.send("a", timeout_us=100)
        b.clock.advance(10)
        b.instance.release()
        b.doubled("a")


def test_a_delayed_request_is_computed_last():
    schedule = policy(timeout_action=TimeoutAction.DELAY, default_timeout_us=100_000)
    with bench(schedule, most=1) as b:
        b.occupy()
        b.send("late")
        b.clock.advance(0.2)
        b.send("fresh")
        b.instance.release()
        b.doubled("late")
        assert b.instance.batches == [["first"], ["fresh"], ["late"]]


def test_a_full_queue_says_so_in_triton_s_words_and_when_to_retry():
    with bench(policy(max_queue_size=1)) as b:
        b.occupy()
        b.submit(b.request("a"), b.request("bb"))
        assert b.error("bb") == ("UNAVAILABLE", "[request id: bb] Exceeds maximum queue size")
        assert b.sink.answer("bb").retry_after_s is not None
        b.instance.release()
        b.doubled("a")


def test_a_queue_without_a_bound_is_bounded_in_rows_all_the_same(monkeypatch):
    monkeypatch.setattr(dynamic, "MAX_WAITING_ROWS", 6)
    with bench() as b:
        b.occupy()
        b.submit(b.request("a", 4), b.request("bb", 3), b.request("ccc", 2))
        assert b.error("bb")[1].endswith("Exceeds maximum queue size")
        b.instance.release()
        b.doubled("ccc", 2)


def test_levels_decide_who_goes_first():
    with bench(DynamicBatching(priority_levels=3, default_priority_level=2), most=1) as b:
        b.occupy()
        for name, priority in (("a", 3), ("bb", 0), ("ccc", 9), ("dddd", 1)):
            b.send(name, priority=priority)
        b.instance.release()
        b.doubled("a")
        assert [batch[0] for batch in b.instance.batches[1:]] == ["dddd", "bb", "ccc", "a"]


def test_cancelling_one_request_leaves_the_others():
    with bench() as b:
        b.occupy()
        requests = [b.send("x" * n) for n in (1, 2, 3)]
        requests[1].cancel()
        assert b.error("xx") == ("CANCELLED", "Request cancelled")
        b.instance.release()
        b.doubled("x")
        b.doubled("xxx")
        assert b.instance.batches[1:] == [["x", "xxx"]]
        requests[1].cancel()
        assert len(b.sink.responses["xx"]) == 1


def test_a_request_cancelled_before_it_was_submitted_is_answered_and_not_run():
    with bench() as b:
        b.occupy()
        request = b.request("gone")
        request.cancel()
        b.submit(request)
        assert b.error("gone")[0] == "CANCELLED"
        b.instance.release()
        b.send("after")
        b.doubled("after")
        assert b.instance.batches == [["first"], ["after"]]


def test_what_runs_is_answered_and_may_see_that_its_caller_left():
    with bench() as b:
        b.instance.hold()
        request = b.send("a")
        b.instance.wait_entered()
        request.cancel()
        assert request.is_cancelled
        b.instance.release()
        b.doubled("a")


def test_only_requests_alike_share_a_batch():
    with bench(dims=(-1,)) as b:
        b.occupy()
        b.submit(*(b.request(name, 1, width) for name, width in (("a", 2), ("bb", 2), ("ccc", 3), ("dddd", 3))))
        b.instance.release()
        for name, width in (("a", 2), ("bb", 2), ("ccc", 3), ("dddd", 3)):
            b.doubled(name, 1, width)
        assert b.instance.batches[1:] == [["a", "bb"], ["ccc", "dddd"]]


def test_ragged_inputs_of_any_length_share_a_batch():
    with bench(inputs=(TensorSpec("IN", DataType.FP32, (-1,), ragged=True),)) as b:
        b.occupy()
        b.submit(b.request("a", 1, 2), b.request("bb", 1, 3))
        b.instance.release()
        b.doubled("bb", 1, 3)
        assert b.instance.batches[1:] == [["a", "bb"]]


def test_requests_with_other_optional_inputs_do_not_share_a_batch():
    inputs = (
        TensorSpec("IN", DataType.FP32, (-1,)),
        TensorSpec("MORE", DataType.FP32, (-1,), optional=True),
    )
    with bench(inputs=inputs) as b:
        b.occupy()
        with_more = b.request("bb")
        with_more.inputs["MORE"] = np.zeros((1, 2), np.float32)
        b.submit(b.request("a"), with_more, b.request("ccc"))
        b.instance.release()
        b.doubled("ccc")
        assert b.instance.batches[1:] == [["a"], ["bb"], ["ccc"]]


def test_several_instances_compute_side_by_side_and_keep_the_order_where_asked():
    for ordered in (True, False):
        instances = [Doubler(), Doubler()]
        with bench(DynamicBatching(preserve_ordering=ordered), most=1, instances=instances) as b:
            for instance in instances:
                instance.hold()
            b.send("a")
            b.send("bb")
            for instance in instances:
                instance.wait_entered()
            slow = next(instance for instance in instances if instance.batches == [["a"]])
            quick = next(instance for instance in instances if instance is not slow)
            b.send("ccc")
            quick.release()
            quick.wait_entered()  # it took "ccc", so "bb" is done
            slow.release()
            for name in ("a", "bb", "ccc"):
                b.doubled(name)
            assert (b.sink.order == ["a", "bb", "ccc"]) or not ordered
            if not ordered:
                assert b.sink.order[0] == "bb"


def test_one_bad_request_of_a_batch_fails_alone_where_the_model_may_run_again():
    with bench() as b:
        b.occupy()
        b.submit(b.request("a"), b.request("raises"), b.request("ccc"))
        b.instance.release()
        assert b.error("raises") == ("INTERNAL", "ValueError: cannot compute")
        b.doubled("a")
        b.doubled("ccc")


def test_a_batch_that_must_not_run_again_fails_whole():
    with bench(instances=[Doubler(retry_safe=False)]) as b:
        b.occupy()
        b.submit(b.request("a"), b.request("raises"))
        b.instance.release()
        for name in ("a", "raises"):
            assert b.error(name) == ("INTERNAL", "ValueError: cannot compute")
        assert b.instance.batches[1:] == [["a", "raises"]]


def test_a_failed_batch_is_an_execution_that_inferred_nothing():
    with bench(instances=[Doubler(retry_safe=False)]) as b:
        b.occupy()
        b.submit(b.request("a", 2), b.request("raises"))
        b.instance.release()
        b.error("a")
        b.error("raises")
        counts = b.statistics.snapshot()
        assert (counts.execution_count, counts.inference_count, counts.pending) == (2, 1, 0)
        assert sorted(counts.batches) == [1, 3]
        assert counts.batches[3].compute_infer.count == counts.batches[3].compute_output.count == 1
        assert counts.compute_infer.count == counts.queue.count == 1


def test_every_run_of_a_batch_that_is_halved_is_an_execution():
    with bench() as b:
        b.occupy()
        b.submit(b.request("a"), b.request("raises"))
        b.instance.release()
        b.error("raises")
        b.doubled("a")
        counts = b.statistics.snapshot()
        assert len(b.instance.batches) == counts.execution_count == 4
        assert {rows: batch.compute_infer.count for rows, batch in counts.batches.items()} == {1: 3, 2: 1}
        assert (counts.inference_count, counts.pending) == (2, 0)


def test_an_error_in_a_result_s_place_is_that_request_s_answer():
    class Refuser(Doubler):
        def answer(self, request):
            return invalid_argument("not this one") if request.id == "bb" else super().answer(request)

    with bench(instances=[Refuser()]) as b:
        b.submit(b.request("a"), b.request("bb"))
        assert b.error("bb") == ("INVALID_ARGUMENT", "not this one")
        b.doubled("a")


def test_a_crash_in_the_model_answers_its_batch_and_the_next_request_works():
    class Crasher(Doubler):
        def answer(self, request):
            if request.id == "crash":
                raise SystemExit(3)
            return super().answer(request)

    with bench(instances=[Crasher()]) as b:
        b.submit(b.request("a"), b.request("crash"))
        assert b.error("a") == ("INTERNAL", "worker of toy crashed: SystemExit: 3")
        assert b.error("crash")[0] == "INTERNAL"
        b.send("after")
        b.doubled("after")


def test_a_decoupled_instance_answers_by_itself_as_often_as_it_likes():
    class Streamer(Doubler):
        def answer(self, request):
            for n in range(3):
                request.respond(InferResponse({"OUT": request.inputs["IN"] + n}), final=False)
            request.respond(None, final=True)

    with bench(instances=[Streamer()], decoupled=True) as b:
        b.send("a")
        b.scheduler.close()
        assert [response is None for response in b.sink.responses["a"]] == [False, False, False, True]


def test_a_decoupled_request_stays_open_after_its_execution():
    kept = []

    class Later(Doubler):
        def answer(self, request):
            kept.append(request)

    with bench(instances=[Later()], decoupled=True) as b:
        b.send("a")
        b.scheduler.close()
        assert "a" not in b.sink.responses
        assert kept[0].on_cancel is None
        kept[0].respond(InferResponse({}), final=True)
        assert isinstance(b.sink.answer("a"), InferResponse)


def test_closing_answers_what_waits_or_refuses_it_in_triton_s_words():
    with bench() as b:
        b.send("a")
        b.scheduler.close(drain=True)
        b.doubled("a")
        b.send("late")
        assert b.error("late") == (
            "UNAVAILABLE",
            "[request id: late] Server is stopping, scheduler for model has stopped accepting new inference requests",
        )


def test_an_answered_request_is_freed_without_the_garbage_collector():
    class Token(Sink):
        pass

    gc.collect()
    gc.disable()
    try:
        with bench() as b:
            sink = Token()
            seen = weakref.ref(sink)
            request = InferRequest({"IN": np.zeros((1, 2), np.float32)}, sink, id="a")
            large = InferRequest({"IN": np.zeros((9, 2), np.float32)}, sink, id="bb", batch_size=9)
            b.submit(request, large)
            sink.answer("a")
            sink.answer("bb")
            del request, large, sink
            b.send("after")
            b.doubled("after")
            b.send("again")  # by now the worker is done with what came before
            b.doubled("again")
            assert seen() is None
    finally:
        gc.enable()


def test_a_model_scheduled_otherwise_is_refused():
    with pytest.raises(ValueError, match="toy is not scheduled by dynamic batching"):
        dynamic.make_batching_scheduler(spec_of(SequenceBatching()), [], ModelStatistics())
