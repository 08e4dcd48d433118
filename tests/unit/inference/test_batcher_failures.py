"""Whatever the model, a caller's callback or the observer does, everyone is answered and the worker goes on."""

import math
import threading

import pytest
from batcher_harness import TIMEOUT, Model, answers, bench

from nextact_server.inference.batcher import SilentObserver, WorkerCrashed, WrongResultCount


def fails_on(bad, error=None):
    def answer(item):
        if item in bad:
            raise error or ValueError(f"cannot compute {item}")
        return ("answer", item)

    return Model(answer)


@pytest.mark.parametrize("bad", range(8))
def test_an_item_that_makes_the_model_fail_fails_alone(bad):
    with bench(fails_on({bad})) as b:
        futures = b.batcher.submit_many(range(8))
        with pytest.raises(ValueError, match=f"cannot compute {bad}"):
            futures[bad].result(TIMEOUT)
        good = [n for n in range(8) if n != bad]
        assert answers([futures[n] for n in good]) == [("answer", n) for n in good]
        report = b.seen.reports[0]
        assert (report.failures, report.items) == (1, 8)
        assert report.runs == len(b.model.batches) == 1 + 2 * math.log2(8)


def test_when_everything_fails_everyone_gets_an_error_and_the_worker_lives():
    with bench(fails_on(set(range(5)))) as b:
        futures = b.batcher.submit_many(range(5))
        for n, future in enumerate(futures):
            with pytest.raises(ValueError, match=f"cannot compute {n}"):
                future.result(TIMEOUT)
        assert b.batcher.submit("after").result(TIMEOUT) == ("answer", "after")


def test_an_exception_in_a_result_s_place_is_that_item_s_failure_without_another_run():
    model = Model(lambda item: KeyError("unknown") if item == 1 else item)
    with bench(model) as b:
        futures = b.batcher.submit_many(range(3))
        with pytest.raises(KeyError, match="unknown"):
            futures[1].result(TIMEOUT)
        assert answers([futures[0], futures[2]]) == [0, 2]
        assert (len(model.batches), b.seen.reports[0].failures) == (1, 1)


@pytest.mark.parametrize(
    ("returned", "named"),
    [
        ([1, 2], "returned 2"),
        ([1, 2, 3, 4], "returned 4"),
        (None, "a NoneType"),
        ((n for n in range(3)), "a generator"),
    ],
)
def test_a_wrong_number_of_results_is_an_error_for_every_caller(returned, named):
    outcomes = [returned]
    with bench(lambda items: outcomes.pop() if outcomes else items) as b:
        for future in b.batcher.submit_many(range(3)):
            with pytest.raises(WrongResultCount, match=f"run of toy got 3 items .*{named}"):
                future.result(TIMEOUT)
        assert b.batcher.submit("after").result(TIMEOUT) == "after"


@pytest.mark.parametrize("crash", [SystemExit(3), KeyboardInterrupt(), MemoryError("no room"), GeneratorExit()])
def test_a_crashed_worker_answers_its_batch_and_serves_those_who_come_after(crash):
    with bench(fails_on({2}, crash)) as b:
        futures = b.batcher.submit_many(range(4))
        for future in futures:
            with pytest.raises(WorkerCrashed, match=f"worker of toy crashed: {type(crash).__name__}") as caught:
                future.result(TIMEOUT)
            assert caught.value.__cause__ is crash
        assert b.batcher.submit("after").result(TIMEOUT) == ("answer", "after")
        assert [report.crashed for report in b.seen.reports] == [True, False]
        assert b.seen.reports[0].failures == 4


def test_those_who_wait_while_the_worker_crashes_are_served():
    with bench(fails_on({"first"}, SystemExit())) as b:
        first = b.occupy()
        waiting = [b.batcher.submit(n) for n in range(3)]
        b.model.release()
        with pytest.raises(WorkerCrashed):
            first.result(TIMEOUT)
        assert answers(waiting) == [("answer", n) for n in range(3)]


def test_a_fault_while_a_batch_is_formed_leaves_nobody_hanging(monkeypatch):
    with bench() as b:
        first = b.occupy()
        waiting = [b.batcher.submit(n) for n in range(3)]
        take, faults = b.batcher._queue.take, [RuntimeError("fault")]

        def faulty(max_cost):
            if faults:
                raise faults.pop()
            return take(max_cost)

        monkeypatch.setattr(b.batcher._queue, "take", faulty)
        b.model.release()
        first.result(TIMEOUT)
        for future in waiting:
            with pytest.raises(WorkerCrashed, match="fault"):
                future.result(TIMEOUT)
        assert b.batcher.submit("after").result(TIMEOUT) == ("answer", "after")


@pytest.mark.parametrize("error", [RuntimeError("in a callback"), SystemExit(1), KeyboardInterrupt()])
def test_a_callback_that_raises_hurts_nobody(error):
    def explode(future):
        raise error

    with bench() as b:
        b.occupy()
        futures = [b.batcher.submit(n) for n in range(4)]
        futures[1].add_done_callback(explode)
        doomed = b.batcher.submit("late", deadline=b.clock.monotonic() + 1)
        doomed.add_done_callback(explode)
        b.clock.advance(1)
        assert doomed.exception(TIMEOUT) is not None
        b.model.release()
        assert answers(futures) == [("answer", n) for n in range(4)]
        again = b.batcher.submit("again", deadline=b.clock.monotonic() + 1)
        assert again.result(TIMEOUT) == ("answer", "again")
        assert not any(report.crashed for report in b.seen.reports)


@pytest.mark.parametrize("error", [RuntimeError("observer"), SystemExit(1)])
def test_an_observer_that_raises_hurts_nobody(error):
    class Broken(SilentObserver):
        def batch_done(self, report):
            raise error

        rejected = expired = cancelled = lambda self, name, number: (_ for _ in ()).throw(error)

    with bench(observer=Broken()) as b:
        b.occupy()
        cancelled, waiting = b.batcher.submit(0), b.batcher.submit(1)
        expiring = b.batcher.submit(2, deadline=b.clock.monotonic() + 1)
        assert cancelled.cancel()
        b.clock.advance(1)
        assert expiring.exception(TIMEOUT) is not None
        b.model.release()
        assert waiting.result(TIMEOUT) == ("answer", 1)
        assert b.batcher.submit("after").result(TIMEOUT) == ("answer", "after")


def test_a_callback_may_submit_to_the_same_batcher():
    with bench() as b:
        done, chained = threading.Event(), []

        def submit_more(future):
            chained.append(b.batcher.submit("second"))
            done.set()

        b.batcher.submit("first").add_done_callback(submit_more)
        assert done.wait(TIMEOUT)
        assert chained[0].result(TIMEOUT) == ("answer", "second")


def test_the_model_may_be_entered_while_callers_submit_and_cancel():
    """No lock is held across run: from within it everything else works."""
    with bench(lambda items: [probe(item) for item in items]) as b:

        def probe(item):
            if item != "outer":
                return item
            inner = b.batcher.submit("inner")
            return inner.cancel(), b.batcher.queued_items

        assert b.batcher.submit("outer").result(TIMEOUT) == (True, 0)
