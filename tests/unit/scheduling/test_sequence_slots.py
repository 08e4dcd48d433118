from sequence_harness import CONTROLS, harness, model_spec

from nextact_server.inference.infer_errors import ErrorCode
from nextact_server.inference.infer_spec import SequenceBatching, TensorSpec
from nextact_server.inference.tensors import DataType

DIRECT = SequenceBatching("direct", controls=CONTROLS)


def test_a_direct_sequence_keeps_its_row_and_the_empty_ones_below_it_are_null_requests() -> None:
    with harness(model_spec(DIRECT)) as h:
        for id in (1, 2, 3):
            h.call(id, id, "start").out()
        assert h.call(3, 30).out() == 33
        null, other, row = h.model.batches[-1]
        assert null == other == {"IN": [[0]], "START": [[0]], "END": [[0]], "READY": [[0.0]], "CORRID": [[0]]}
        assert row == {"IN": [[30]], "START": [[0]], "END": [[0]], "READY": [[1.0]], "CORRID": [[3]]}
        assert [call.out() for call in h.calls((2, 20, ""), (1, 10, ""))] == [22, 11]
        assert h.model.values()[-1] == [10, 20]


def test_null_requests_are_sent_to_a_model_without_controls_too() -> None:
    with harness(model_spec(SequenceBatching("direct"))) as h:
        h.call(1, 1, "start").out()
        h.call(2, 2, "start").out()
        assert h.model.batches == [[{"IN": [[1]]}], [{"IN": [[0]]}, {"IN": [[2]]}]]


def test_null_requests_only_make_the_batch_larger_in_the_statistics() -> None:
    with harness(model_spec(DIRECT)) as h:
        h.call(1, 1, "start").out()
        h.call(2, 2, "start").out()
        seen = h.statistics.snapshot()
        assert (seen.inference_count, seen.execution_count, seen.queue.count, seen.pending) == (2, 2, 2, 0)
        assert set(seen.batches) == {1, 2}
        h.model.fail = {13}
        h.call(2, 13).error()
        assert h.pending() == 0


def test_a_slot_that_was_freed_is_the_first_to_be_taken() -> None:
    with harness(model_spec(DIRECT)) as h:
        for id in (1, 2, 3):
            h.call(id, id, "start").out()
        h.call(1, 1, "end").out()
        h.call(4, 40, "start").out()
        assert h.model.values()[-1] == [40]


def test_sequences_spread_over_the_instances_and_stay_there() -> None:
    with harness(model_spec(DIRECT, max_batch_size=2), instances=2) as h:
        for id in (1, 2, 3, 4):
            h.call(id, id, "start").out()
        for id in (1, 2, 3, 4):
            assert h.call(id, 10).out() == id + 10
        assert [value for batch in h.models[0].values() for value in batch if value not in (0, 10)] == [1, 3]
        assert [value for batch in h.models[1].values() for value in batch if value not in (0, 10)] == [2, 4]


def test_sequences_beyond_the_slots_wait_in_order_for_one_to_be_free() -> None:
    with harness(model_spec(DIRECT, max_batch_size=1)) as h:
        assert h.call(1, 1, "start").out() == 1
        second = h.calls((2, 2, "start"), (2, 20, "end"))
        third = h.call(3, 3, "start")
        assert h.call(1, 1).out() == 2
        assert not second[0].answers
        assert h.call(1, 1, "end").out() == 3
        assert [call.out() for call in (*second, third)] == [2, 22, 3]
        assert h.model.values() == [[1], [1], [1], [2], [20], [3]]


def test_oldest_holds_no_more_sequences_than_candidates() -> None:
    batching = SequenceBatching("oldest", controls=CONTROLS, max_candidate_sequences=2)
    with harness(model_spec(batching)) as h:
        assert [call.out() for call in h.calls((1, 1, "start"), (2, 2, "start"))] == [1, 2]
        third = h.call(3, 3, "start")
        assert h.call(2, 5).out() == 7
        assert not third.answers
        assert h.call(1, 5, "end").out() == 6
        assert third.out() == 3


def test_oldest_batches_those_that_wait_longest_without_null_requests() -> None:
    batching = SequenceBatching("oldest", controls=CONTROLS, max_candidate_sequences=8)
    with harness(model_spec(batching, max_batch_size=2)) as h:
        h.model.hold()
        first = h.call(9, 9, "start")
        h.model.wait_entered()
        calls = h.calls((5, 50, "start"), (5, 51, ""), (4, 40, "start"), (3, 30, "start"))
        h.model.release()
        assert [call.out() for call in (first, *calls)] == [9, 50, 101, 40, 30]
        assert h.model.values() == [[9], [50, 40], [30, 51]]


def test_oldest_leaves_with_a_preferred_size_and_otherwise_when_the_delay_is_over() -> None:
    batching = SequenceBatching(
        "oldest", controls=CONTROLS, max_candidate_sequences=8, preferred_batch_size=(2, 3), max_queue_delay_us=1000
    )
    with harness(model_spec(batching)) as h:
        assert [call.out() for call in h.calls(*[(id, id, "start") for id in range(1, 4)])] == [1, 2, 3]
        late = h.call(4, 4, "start")
        h.clock.wait_for_parked(until=0.001)
        assert not late.answers
        h.clock.advance(0.001)
        assert late.out() == 4
        assert h.model.values() == [[1, 2, 3], [4]]


def test_direct_waits_for_its_minimum_slot_utilization_but_not_longer_than_the_delay() -> None:
    batching = SequenceBatching(
        "direct", controls=CONTROLS, minimum_slot_utilization=0.5, max_queue_delay_us=1000, max_sequence_idle_us=10**9
    )
    with harness(model_spec(batching)) as h:
        assert [call.out() for call in h.calls((1, 1, "start"), (2, 2, "start"))] == [1, 2]
        alone = h.call(1, 10)
        h.clock.wait_for_parked(until=0.001)
        assert not alone.answers
        h.clock.advance(0.001)
        assert alone.out() == 11
        first = h.call(1, 1)
        h.clock.wait_for_parked(until=0.002)
        second = h.call(2, 1)
        assert [first.out(), second.out()] == [12, 3]


def test_requests_of_different_shapes_do_not_share_a_batch() -> None:
    for strategy in ("direct", "oldest"):
        batching = SequenceBatching(strategy, max_candidate_sequences=4)
        with harness(model_spec(batching, dims=(-1,))) as h:
            calls = h.calls((1, [1, 1], "start"), (2, [2], "start"), (3, [3, 3], "start"))
            assert [call.out() for call in calls] == [1, 2, 3]
            assert h.model.values() == ([[1, 0, 3], [0, 2]] if strategy == "direct" else [[1], [2], [3]])
            assert len({len(row["IN"][0]) for row in h.model.batches[0]}) == 1


def test_requests_of_different_shapes_share_a_batch_where_it_may_be_ragged() -> None:
    inputs = (TensorSpec("IN", DataType.INT32, (-1,), ragged=True),)
    with harness(model_spec(SequenceBatching("direct"), inputs=inputs)) as h:
        h.calls((1, [1, 1], "start"), (2, [2], "start"))[1].out()
        assert h.model.values() == [[1, 2]]


def test_a_timeout_counts_while_a_sequence_waits_for_a_slot_and_takes_all_of_it() -> None:
    batching = SequenceBatching("direct", controls=CONTROLS, max_sequence_idle_us=10**9)
    with harness(model_spec(batching, max_batch_size=1)) as h:
        h.call(1, 1, "start", timeout_us=1).out()
        start = h.call(2, 2, "start", timeout_us=500_000)
        following = h.call(2, 20)
        h.clock.wait_for_parked(until=0.5)
        h.clock.advance(0.5)
        for call in (start, following):
            error = call.error()
            assert error.code is ErrorCode.UNAVAILABLE
            assert error.message == "timeout of the corresponding sequence has been expired"
        assert "must specify the START flag" in h.call(2).error().message
        assert h.call(1, 1).out() == 2
