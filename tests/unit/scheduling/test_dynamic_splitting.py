"""A request with more rows than max_batch_size is computed in parts and answered once."""

import numpy as np
import pytest
from dynamic_harness import Doubler, bench
from hypothesis import given, settings
from hypothesis import strategies as st

from nextact_server.inference.infer_errors import InferError, invalid_argument
from nextact_server.inference.infer_request import InferResponse
from nextact_server.inference.infer_spec import DynamicBatching, QueuePolicy


@pytest.mark.parametrize("schedule", [DynamicBatching(), None])
@pytest.mark.parametrize("rows", [5, 8, 11])
def test_a_request_over_the_maximum_is_split_and_rejoined(schedule, rows):
    with bench(schedule) as b:
        b.send("large", rows)
        b.doubled("large", rows)
        assert b.sink.answer("large").parameters == {"rows": 4}
        assert len(b.instance.batches) == -(-rows // 4)
        assert b.statistics.snapshot().inference_count == rows


def test_the_last_part_shares_its_batch_with_others():
    with bench() as b:
        b.occupy()
        b.submit(b.request("large", 5), b.request("aa", 2))
        b.instance.release()
        b.doubled("large", 5)
        b.doubled("aa", 2)
        assert b.instance.batches[1:] == [["large"], ["large", "aa"]]


def test_requests_around_a_large_one_keep_their_order():
    with bench(most=2) as b:
        b.occupy()
        b.submit(*(b.request(name, rows) for name, rows in (("a", 2), ("l1", 3), ("l2", 4), ("bb", 2))))
        b.instance.release()
        b.doubled("bb", 2)
        assert [name for batch in b.instance.batches[1:] for name in batch] == ["a", "l1", "l1", "l2", "l2", "bb"]


def test_the_parts_are_views_and_only_the_answer_is_copied():
    seen = []

    class Watcher(Doubler):
        def answer(self, request):
            seen.append(request.inputs["IN"])
            return super().answer(request)

    with bench(instances=[Watcher()]) as b:
        request = b.send("large", 9)
        b.doubled("large", 9)
        assert all(np.shares_memory(part, request.inputs["IN"]) for part in seen)


@pytest.mark.parametrize(("settings", "most"), [({"decoupled": True}, 4), ({}, 0)])
def test_where_it_cannot_be_split_it_is_refused_in_triton_s_words(settings, most):
    with bench(most=most, **settings) as b:
        b.send("large", 9)
        assert b.error("large") == (
            "INVALID_ARGUMENT",
            f"[request id: large] inference request batch-size must be <= {most} for 'toy'",
        )
        assert b.instance.batches == []


def test_the_error_of_any_part_is_the_answer_and_the_other_parts_are_taken_back():
    class Refuser(Doubler):
        def answer(self, request):
            return invalid_argument("not these") if request.inputs["IN"][0, 0] == 13 else super().answer(request)

    with bench(most=2, instances=[Refuser()]) as b:
        b.occupy()
        b.send("large", 12)  # rows begin at 5; the second part is 9 .. 12, the third begins with 13
        b.instance.release()
        assert b.error("large") == ("INVALID_ARGUMENT", "not these")
        b.send("after")
        b.doubled("after")
        assert len(b.instance.batches) < 1 + 6 + 1


def test_cancelling_takes_back_every_part_and_answers_once():
    with bench() as b:
        b.occupy()
        large = b.send("large", 20)
        b.send("aa")
        large.cancel()
        assert b.error("large")[0] == "CANCELLED"
        b.instance.release()
        b.doubled("aa")
        assert b.instance.batches[1:] == [["aa"]]


def test_a_large_request_expires_whole():
    with bench(DynamicBatching(default_queue_policy=QueuePolicy(default_timeout_us=1000))) as b:
        b.occupy()
        b.send("large", 9)
        b.clock.advance(0.001)
        assert b.error("large") == ("UNAVAILABLE", "Request timeout expired")


def test_a_large_request_is_one_request_to_a_bounded_queue():
    with bench(DynamicBatching(default_queue_policy=QueuePolicy(max_queue_size=1))) as b:
        b.occupy()
        b.send("large", 12)
        b.send("larger", 13)
        assert b.error("larger") == ("UNAVAILABLE", "[request id: larger] Exceeds maximum queue size")
        b.instance.release()
        b.doubled("large", 12)


def test_parts_that_are_answered_differently_are_an_error_not_a_hang():
    class Fickle(Doubler):
        def answer(self, request):
            return InferResponse({f"OUT{len(self.batches)}": request.inputs["IN"]})

    with bench(instances=[Fickle()]) as b:
        b.send("large", 8)
        code, message = b.error("large")
        assert (code, "answered differently" in message) == ("INTERNAL", True)


def test_a_part_without_an_answer_leaves_the_whole_without_one():
    class Silent(Doubler):
        def answer(self, request):
            request.respond(None)

    with bench(instances=[Silent()]) as b:
        b.send("large", 8)
        assert b.sink.answer("large") is None


@given(rows=st.lists(st.integers(1, 13), min_size=1, max_size=12), most=st.integers(1, 5), plain=st.booleans())
@settings(deadline=None)
def test_split_or_not_every_request_is_answered_with_its_own_rows(rows, most, plain):
    with bench(None if plain else DynamicBatching(), most=most) as b:
        requests = [b.request("x" * (at + 1), count) for at, count in enumerate(rows)]
        b.submit(*requests)
        for at, count in enumerate(rows):
            b.doubled("x" * (at + 1), count)
        assert not any(isinstance(answer, InferError) for answers in b.sink.responses.values() for answer in answers)
