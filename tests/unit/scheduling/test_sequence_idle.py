from sequence_harness import CONTROLS, harness, model_spec

from nextact_server.inference.infer_errors import ErrorCode
from nextact_server.inference.infer_spec import SequenceBatching

DIRECT = SequenceBatching("direct", controls=CONTROLS, max_sequence_idle_us=2_000_000)


def test_an_idle_sequence_ends_and_its_late_request_must_start() -> None:
    with harness(model_spec(DIRECT)) as h:
        h.call(1, 1, "start").out()
        h.clock.wait_for_parked(until=2.0)
        h.clock.advance(2.0)
        error = h.call(1).error()
        assert error.code is ErrorCode.INVALID_ARG
        assert "must specify the START flag" in error.message
        assert h.call(1, 9, "start").out() == 9


def test_an_idle_sequence_leaves_its_slot_to_who_waits_for_one() -> None:
    with harness(model_spec(DIRECT, max_batch_size=1)) as h:
        h.call(1, 1, "start").out()
        waiting = h.call(2, 5, "start")
        h.clock.wait_for_parked(until=2.0)
        assert not waiting.answers
        h.clock.advance(2.0)
        assert waiting.out() == 5


def test_every_request_begins_the_idle_time_anew_without_waking_the_timer() -> None:
    with harness(model_spec(DIRECT)) as h:
        h.call(1, 1, "start").out()
        h.clock.wait_for_parked(until=2.0)
        h.clock.advance(1.5)
        h.clock.wait_for_parked(until=2.0)
        assert h.call(1, 1).out() == 2
        h.clock.wait_for_parked(until=2.0)
        h.clock.advance(0.5)
        h.clock.wait_for_parked(until=3.5)
        assert h.call(1, 1).out() == 3


def test_a_sequence_is_not_idle_while_a_request_of_it_runs_or_waits_for_a_slot() -> None:
    with harness(model_spec(DIRECT, max_batch_size=1)) as h:
        h.model.hold()
        running = h.call(1, 1, "start")
        waiting = h.call(2, 2, "start")
        h.model.wait_entered()
        h.clock.advance(100.0)
        h.model.release()
        assert running.out() == 1
        assert h.call(1, 1, "end").out() == 2
        assert waiting.out() == 2


def test_only_those_end_that_were_idle_long_enough() -> None:
    with harness(model_spec(DIRECT)) as h:
        h.call(1, 1, "start").out()
        h.clock.wait_for_parked(until=2.0)
        h.clock.advance(1.0)
        h.call(2, 2, "start").out()
        h.clock.advance(1.0)
        assert "must specify the START flag" in h.call(1).error().message
        assert h.call(2, 1).out() == 3
