"""Items sent with a completion of the caller's own share the queue, and its rules, with those that have a future."""

import threading

from batcher_harness import TIMEOUT, bench

from nextact_server.inference.batcher import BatcherClosed, PriorityLevels, QueueFull
from nextact_server.inference.infer_spec import QueuePolicy


class Kept:
    """Keeps what it is given."""

    def __init__(self, *, gone=False):
        self.number = -1
        self.results = []
        self.times = ()
        self._gone = gone
        self._settled = threading.Event()

    def begin(self):
        return not self._gone

    def settle(self, result, *times):
        self.results.append(result)
        self.times = times
        self._settled.set()

    def result(self):
        assert self._settled.wait(TIMEOUT)
        return self.results[-1]


def test_completions_get_answer_and_times_once():
    with bench() as b:
        b.occupy()
        kept = [Kept(), Kept()]
        b.batcher.send(["a", "b"], kept)
        future = b.batcher.submit("c")
        b.clock.advance(2.0)
        b.model.release()
        assert [each.result() for each in kept] == [("answer", "a"), ("answer", "b")]
        assert future.result(TIMEOUT) == ("answer", "c")
        assert b.model.batches[1:] == [["a", "b", "c"]]
        assert kept[0].times == (2.0, 0.0)
        assert [len(each.results) for each in kept] == [1, 1]


def test_only_those_that_do_not_fit_are_refused():
    with bench(max_queue_cost=8, cost=len) as b:
        b.occupy("x")
        kept = [Kept() for _ in range(4)]
        b.batcher.send(["aaaa", "bbbbb", "cc", "ddd"], kept)
        assert [type(each.results[0]) if each.results else None for each in kept] == [None, QueueFull, None, QueueFull]
        assert b.seen.rejected_costs == [5, 3]


def test_parts_enter_together_or_not_at_all():
    with bench(max_queue_cost=8, cost=len) as b:
        b.occupy("x")
        kept = [Kept() for _ in range(3)]
        b.batcher.send(["aaaa", "bbb", "cc"], kept, together=True)
        assert all(isinstance(each.results[0], QueueFull) for each in kept)
        assert b.batcher.queued_items == 0


def test_parts_that_enter_together_count_as_one_against_a_level():
    levels = PriorityLevels(policy=QueuePolicy(max_queue_size=1))
    with bench(levels=levels) as b:
        b.occupy()
        parts, other = [Kept() for _ in range(3)], Kept()
        b.batcher.send("abc", parts, together=True)
        b.batcher.send("d", [other])
        assert isinstance(other.result(), QueueFull)
        b.model.release()
        assert [part.result() for part in parts] == [("answer", letter) for letter in "abc"]


def test_what_is_withdrawn_in_time_is_the_caller_s_to_settle():
    with bench() as b:
        b.occupy()
        kept = Kept()
        b.batcher.send(["a"], [kept])
        assert b.batcher.withdraw(kept.number)
        assert not b.batcher.withdraw(kept.number)
        b.model.release()
        b.batcher.submit("after").result(TIMEOUT)
        assert (b.model.batches, kept.results) == ([["first"], ["after"]], [])
        assert b.seen.cancelled_items == 1


def test_what_was_given_up_at_the_last_moment_is_not_computed():
    with bench() as b:
        b.occupy()
        gone, stays = Kept(gone=True), Kept()
        b.batcher.send(["gone", "stays"], [gone, stays])
        b.model.release()
        assert stays.result() == ("answer", "stays")
        assert b.model.batches[1:] == [["stays"]]
        assert b.seen.cancelled_items == 1


def test_a_closed_batcher_says_so_to_each():
    with bench() as b:
        b.batcher.close()
        kept = [Kept(), Kept()]
        b.batcher.send(["a", "b"], kept)
        assert all(isinstance(each.result(), BatcherClosed) for each in kept)
        assert b.seen.rejected_costs == []
