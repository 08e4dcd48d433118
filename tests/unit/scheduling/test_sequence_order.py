import pytest
from sequence_harness import CONTROLS, harness, model_spec

from nextact_server.inference.infer_errors import ErrorCode
from nextact_server.inference.infer_spec import SequenceBatching

DIRECT = SequenceBatching("direct", controls=CONTROLS)
OLDEST = SequenceBatching("oldest", controls=CONTROLS, max_candidate_sequences=4)
BOTH = pytest.mark.parametrize("batching", [DIRECT, OLDEST], ids=["direct", "oldest"])


@BOTH
def test_requests_of_a_sequence_run_in_order_and_never_two_in_one_batch(batching: SequenceBatching) -> None:
    with harness(model_spec(batching)) as h:
        h.model.hold()
        first = h.call(1, 1, "start")
        h.model.wait_entered()
        rest = h.calls((1, 2, ""), (1, 3, ""), (1, 4, "end"))
        h.model.release()
        assert [call.out() for call in (first, *rest)] == [1, 3, 6, 10]
        assert h.model.values() == [[1], [2], [3], [4]]


@BOTH
def test_requests_of_different_sequences_share_a_batch(batching: SequenceBatching) -> None:
    with harness(model_spec(batching)) as h:
        calls = h.calls((1, 10, "start"), (2, 20, "start"), (3, 30, "start"))
        assert [call.out() for call in calls] == [10, 20, 30]
        assert h.model.values() == [[10, 20, 30]]


@BOTH
def test_a_start_for_a_live_sequence_begins_it_anew_in_its_place(batching: SequenceBatching) -> None:
    with harness(model_spec(batching)) as h:
        assert [h.call(1, 5, "start").out(), h.call(1, 6).out()] == [5, 11]
        assert [h.call(1, 7, "start").out(), h.call(1, 1).out()] == [7, 8]


@BOTH
def test_a_sequence_that_ended_needs_a_start(batching: SequenceBatching) -> None:
    with harness(model_spec(batching)) as h:
        assert h.call(1, 5, "start").out() == 5
        assert h.call(1, 5, "end").out() == 10
        error = h.call(1).error()
        assert error.code is ErrorCode.INVALID_ARG
        assert error.message == (
            "inference request for sequence 1 to model 'm' must specify the START flag on the first request of the "
            "sequence"
        )
        assert h.call(1, 7, "start end").out() == 7


@BOTH
def test_a_start_behind_an_end_of_the_same_id_waits_until_that_is_over(batching: SequenceBatching) -> None:
    with harness(model_spec(batching)) as h:
        h.model.hold()
        first = h.call(1, 1, "start")
        h.model.wait_entered()
        rest = h.calls((1, 2, "end"), (1, 10, "start"), (1, 20, "end"), (1, 100, "start end"))
        h.model.release()
        assert [call.out() for call in (first, *rest)] == [1, 3, 10, 30, 100]
        assert h.model.values() == [[1], [2], [10], [20], [100]]


@pytest.mark.parametrize("id", [0, ""])
def test_a_request_without_a_correlation_id_is_refused(id: int | str) -> None:
    with harness(model_spec(DIRECT)) as h:
        error = h.call(id, 1, "start").error()
        assert error.code is ErrorCode.INVALID_ARG
        assert error.message == "inference request to model 'm' must specify a non-zero or non-empty correlation ID"


def test_a_request_of_several_rows_is_refused() -> None:
    with harness(model_spec(DIRECT)) as h:
        error = h.call(1, 1, "start", batch_size=2).error()
        assert error.code is ErrorCode.INVALID_ARG
        assert error.message == (
            "inference request to model 'm' must specify batch-size 1 due to requirements of sequence batcher"
        )


def test_a_negative_id_is_the_unsigned_one_of_the_same_bits() -> None:
    with harness(model_spec(DIRECT)) as h:
        assert h.call(-5, 3, "start").out() == 3
        assert h.call((1 << 64) - 5, 4).out() == 7
        assert h.model.batches[0][0]["CORRID"] == [[(1 << 64) - 5]]


@BOTH
def test_a_failing_batch_is_answered_with_the_error_and_its_sequences_go_on(batching: SequenceBatching) -> None:
    with harness(model_spec(batching)) as h:
        h.calls((1, 1, "start"), (2, 2, "start"))[1].out()
        h.model.fail = {13}
        bad = h.calls((1, 13, ""), (2, 5, ""))
        assert [call.error().code for call in bad] == [ErrorCode.INTERNAL, ErrorCode.INTERNAL]
        assert [call.out() for call in h.calls((1, 3, ""), (2, 3, "end"))] == [4, 5]


def test_a_batch_that_may_be_retried_is_not_run_by_halves() -> None:
    with harness(model_spec(OLDEST)) as h:
        h.model.retry_safe = True
        h.model.fail = {13}
        bad = h.calls((1, 13, "start"), (2, 5, "start"))
        assert [call.error().message for call in bad] == ["RuntimeError: boom"] * 2
        assert len(h.model.batches) == 1


def test_a_model_that_does_not_batch_runs_one_sequence_at_a_time_with_controls_of_shape_1() -> None:
    with harness(model_spec(DIRECT, max_batch_size=0)) as h:
        a = h.call(1, 1, "start", batch_size=3)  # there is no batch axis, so it says nothing
        b = h.call(2, 2, "start end")
        assert a.out() == 1
        assert not b.answers
        assert h.call(1, 1, "end").out() == 2
        assert b.out() == 2
        assert h.model.batches[0][0]["START"] == [1]
