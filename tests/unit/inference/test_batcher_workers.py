"""Several workers pull from one line: they compute side by side, and answers keep their order where that is asked."""

import threading

import pytest
from batcher_harness import TIMEOUT, Model, answers, bench

from nextact_server.inference.answer_order import AnswerOrder
from nextact_server.inference.batcher import Batcher, BatcherClosed, WorkerCrashed


def two(**settings):
    models = [Model(), Model()]
    return models, bench(models, **({"max_cost": 1} | settings))


def occupy_both(b, models):
    for model in models:
        model.hold()
    futures = [b.batcher.submit(f"first {at}") for at in range(2)]
    for model in models:
        model.wait_entered()
    return futures


def test_two_workers_compute_at_the_same_time():
    models, built = two()
    with built as b:
        futures = occupy_both(b, models)  # neither would enter if it had to wait for the other
        for model in models:
            model.release()
        assert answers(futures) == [("answer", "first 0"), ("answer", "first 1")]
        assert not models[0].threads & models[1].threads


def test_what_one_worker_leaves_behind_wakes_another():
    models, built = two(max_cost=2)
    with built as b:
        for model in models:
            model.hold()
        futures = b.batcher.submit_many(range(4))  # one call wakes one worker, which takes half of it
        for model in models:
            model.wait_entered()
        for model in models:
            model.release()
        assert answers(futures) == [("answer", n) for n in range(4)]


def test_a_slow_worker_does_not_hold_up_what_the_other_answers():
    models, built = two()
    with built as b:
        slow, quick = occupy_both(b, models)
        held = next(model for model in models if model.items == ["first 0"])
        for model in models:
            if model is not held:
                model.release()
        assert quick.result(TIMEOUT) == ("answer", "first 1")
        assert b.batcher.submit("later").result(TIMEOUT) == ("answer", "later")
        assert not slow.done()
        held.release()
        slow.result(TIMEOUT)


def test_with_ordering_answers_leave_as_they_came_whoever_is_done_first():
    models, built = two(preserve_ordering=True)
    with built as b:
        order = []
        slow, quick = occupy_both(b, models)
        later = b.batcher.submit("later")
        for name, future in (("slow", slow), ("quick", quick), ("later", later)):
            future.add_done_callback(lambda _, name=name: order.append(name))
        held = next(model for model in models if model.items == ["first 0"])
        free = next(model for model in models if model is not held)
        free.release()
        free.wait_entered()  # "later" is in the model, so "quick" was computed
        assert not quick.done()
        held.release()
        answers([slow, quick, later])
        b.batcher.close()
        assert order == ["slow", "quick", "later"]


def test_with_ordering_a_cancelled_or_failed_batch_holds_nobody_up():
    def crash(item):
        if item == "crash":
            raise SystemExit
        return item

    with bench([Model(crash), Model(crash)], max_cost=1, preserve_ordering=True) as b:
        futures = [b.batcher.submit(item) for item in ("a", "crash", "b", "c", "crash", "d")]
        b.batcher.submit("gone").cancel()
        for item, future in zip(("a", "crash", "b", "c", "crash", "d"), futures, strict=True):
            if item == "crash":
                assert isinstance(future.exception(TIMEOUT), WorkerCrashed)
            else:
                assert future.result(TIMEOUT) == item
        assert b.batcher.submit("after").result(TIMEOUT) == "after"


def test_a_crashed_worker_goes_on_beside_the_others():
    models = [Model(lambda item: (_ for _ in ()).throw(SystemExit())) for _ in range(2)]
    with bench(models, max_cost=1) as b:
        futures = [b.batcher.submit(n) for n in range(10)]
        assert all(isinstance(future.exception(TIMEOUT), WorkerCrashed) for future in futures)
        assert all(worker.thread.is_alive() for worker in b.batcher._workers)


@pytest.mark.parametrize("drain", [True, False])
def test_closing_ends_every_worker(drain):
    models, built = two()
    with built as b:
        running = occupy_both(b, models)
        waiting = [b.batcher.submit(n) for n in range(5)]
        closer = threading.Thread(target=lambda: b.batcher.close(drain=drain))
        closer.start()
        if not drain:
            assert all(isinstance(future.exception(TIMEOUT), BatcherClosed) for future in waiting)
        for model in models:
            model.release()
        closer.join(TIMEOUT)
        assert not closer.is_alive()
        assert not any(worker.thread.is_alive() for worker in b.batcher._workers)
        assert all(future.done() for future in [*running, *waiting])


def test_a_window_leaves_once_whichever_worker_sees_its_end():
    _, built = two(max_cost=8, max_queue_delay_s=0.005)
    with built as b:
        end = b.clock.monotonic() + 0.005
        futures = b.batcher.submit_many(range(3))
        b.clock.wait_for_parked(end)
        b.clock.advance(0.005)
        answers(futures)
        assert [report.items for report in b.seen.reports] == [3]


def test_no_workers_make_no_sense():
    with pytest.raises(ValueError, match="at least one run"):
        Batcher("toy", [], max_cost=1, max_queue_cost=1)


def test_a_batch_that_cannot_be_answered_does_not_stop_those_behind_it():
    order, answered = AnswerOrder(), []

    def broken():
        raise SystemExit

    order.finish(2, lambda: answered.append(2))
    order.finish(1, broken)
    assert answered == []
    order.finish(0, lambda: answered.append(0))
    order.finish(3, lambda: answered.append(3))
    assert answered == [0, 2, 3]
