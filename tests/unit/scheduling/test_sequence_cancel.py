import pytest
from sequence_harness import CONTROLS, Call, Harness, harness, model_spec

from nextact_server.inference.infer_errors import ErrorCode
from nextact_server.inference.infer_spec import SequenceBatching

DIRECT = SequenceBatching("direct", controls=CONTROLS)
OLDEST = SequenceBatching("oldest", controls=CONTROLS, max_candidate_sequences=4)
BOTH = pytest.mark.parametrize("batching", [DIRECT, OLDEST], ids=["direct", "oldest"])


def _running(h: Harness, id: int = 1) -> Call:
    h.model.hold()
    call = h.call(id, 1, "start")
    h.model.wait_entered()
    return call


@BOTH
def test_a_waiting_request_that_is_cancelled_is_told_at_once_and_its_sequence_goes_on(
    batching: SequenceBatching,
) -> None:
    with harness(model_spec(batching)) as h:
        first = _running(h)
        second, third = h.calls((1, 2, ""), (1, 4, ""))
        second.request.cancel()
        assert second.error().code is ErrorCode.CANCELLED
        h.model.release()
        assert [first.out(), third.out()] == [1, 5]


@BOTH
def test_cancelling_what_runs_changes_nothing_but_lets_the_model_know(batching: SequenceBatching) -> None:
    with harness(model_spec(batching)) as h:
        first = _running(h)
        first.request.cancel()
        h.model.release()
        assert first.out() == 1
        assert first.request.is_cancelled


@BOTH
def test_a_cancelled_start_takes_what_came_after_it_along_and_the_sequence_is_over(batching: SequenceBatching) -> None:
    with harness(model_spec(batching)) as h:
        busy = _running(h)
        start, following = h.calls((2, 1, "start"), (2, 2, ""))
        start.request.cancel()
        assert [call.error().code for call in (start, following)] == [ErrorCode.CANCELLED] * 2
        assert "must specify the START flag" in h.call(2).error().message
        h.model.release()
        assert busy.out() == 1
        assert h.call(2, 7, "start").out() == 7


def test_a_cancelled_restart_leaves_what_was_before_it_and_another_start_behind_it() -> None:
    with harness(model_spec(DIRECT)) as h:
        first = _running(h)
        before, restart, lost, again, last = h.calls(
            (1, 2, ""), (1, 100, "start"), (1, 200, ""), (1, 5, "start"), (1, 6, "")
        )
        restart.request.cancel()
        h.model.release()
        assert [call.error().code for call in (restart, lost)] == [ErrorCode.CANCELLED] * 2
        assert [call.out() for call in (first, before, again, last)] == [1, 3, 5, 11]


def test_a_cancelled_restart_with_nothing_behind_it_ends_the_sequence_after_what_was_before() -> None:
    with harness(model_spec(DIRECT, max_batch_size=1)) as h:
        first = _running(h)
        before, restart = h.calls((1, 2, ""), (1, 100, "start"))
        other = h.call(2, 50, "start")
        restart.request.cancel()
        assert "must specify the START flag" in h.call(1).error().message
        anew = h.call(1, 30, "start end")
        h.model.release()
        assert [call.out() for call in (first, before, other)] == [1, 3, 50]
        assert h.call(2, 1, "end").out() == 51
        assert anew.out() == 30


def test_a_cancelled_end_frees_the_slot_without_being_run() -> None:
    with harness(model_spec(DIRECT, max_batch_size=1)) as h:
        first = _running(h)
        end = h.call(1, 1, "end")
        other = h.call(2, 5, "start")
        end.request.cancel()
        assert end.error().code is ErrorCode.CANCELLED
        h.model.release()
        assert [first.out(), other.out()] == [1, 5]


def test_a_sequence_cancelled_in_the_backlog_leaves_its_place_to_the_next() -> None:
    with harness(model_spec(DIRECT, max_batch_size=1)) as h:
        first = _running(h)
        second, third = h.call(2, 2, "start"), h.call(3, 3, "start")
        second.request.cancel()
        ending = h.call(1, 1, "end")
        h.model.release()
        assert [call.out() for call in (first, ending, third)] == [1, 2, 3]
        assert second.error().code is ErrorCode.CANCELLED


def test_a_start_cancelled_before_the_one_under_its_id_is_over_is_passed_over() -> None:
    with harness(model_spec(DIRECT)) as h:
        first = _running(h)
        end, given_up = h.calls((1, 2, "end"), (1, 10, "start"))
        given_up.request.cancel()
        anew = h.call(1, 20, "start")
        h.model.release()
        assert given_up.error().code is ErrorCode.CANCELLED
        assert [call.out() for call in (first, end, anew)] == [1, 3, 20]
        assert h.model.values() == [[1], [2], [20]]


def test_a_request_cancelled_before_it_was_submitted_is_not_run() -> None:
    with harness(model_spec(DIRECT)) as h:
        _running(h)
        call = h.call(1, 2, "")
        call.request.cancel()
        call.error()
        early = Call(call.request)
        early.request = type(call.request)(dict(call.request.inputs), early, correlation_id=1)
        early.request.cancel()
        h.statistics.entered(1)
        h.scheduler.submit([early.request])
        assert early.error().code is ErrorCode.CANCELLED
