"""Every failure of a room has its status, with details a machine can read, and none of them is INTERNAL."""

import asyncio

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from nextact_server.inference.batch_errors import DeadlineExpired, WorkerCrashed, WrongResultCount
from nextact_server.inference.batcher import BatcherClosed, QueueFull
from nextact_server.pipeline import UnknownModelVersion
from nextact_server.rpc.errors import DETAILS_KEY, CallError, as_call_error, invalid, too_much, unavailable
from nextact_server.sequence.index import IndexFull
from nextact_server.sequence.journal import StoreUnavailable

Code = grpc.StatusCode


def details(error: CallError) -> tuple[error_details_pb2.BadRequest | None, error_details_pb2.RetryInfo | None]:
    """What a client unpacks from the trailers, after checking that they agree with the status."""
    bad, retry = None, None
    for key, value in error.trailing_metadata():
        assert key == DETAILS_KEY
        status = status_pb2.Status.FromString(value)
        assert status.code == error.code.value[0]
        assert status.message == error.message
        for packed in status.details:
            if packed.Is(error_details_pb2.BadRequest.DESCRIPTOR):
                bad = error_details_pb2.BadRequest()
                packed.Unpack(bad)
            else:
                retry = error_details_pb2.RetryInfo()
                assert packed.Unpack(retry)
    return bad, retry


def test_an_invalid_argument_names_the_field() -> None:
    error = invalid("options.top_k", "7 is too much (max_top_k)")
    assert error.code is Code.INVALID_ARGUMENT
    assert error.message == "options.top_k: 7 is too much (max_top_k)"
    bad, retry = details(error)
    assert [(v.field, v.description) for v in bad.field_violations] == [("options.top_k", "7 is too much (max_top_k)")]
    assert retry is None


@pytest.mark.parametrize(("seconds", "wanted"), [(0.25, (0, 250_000_000)), (2.0, (2, 0)), (61.5, (61, 500_000_000))])
def test_too_much_says_when_to_try_again(seconds: float, wanted: tuple[int, int]) -> None:
    bad, retry = details(too_much("full", seconds))
    assert bad is None
    assert (retry.retry_delay.seconds, retry.retry_delay.nanos) == wanted


def test_what_trying_again_cannot_help_says_nothing_of_it() -> None:
    assert too_much("the message is too large").trailing_metadata() == ()
    assert unavailable("stopping").trailing_metadata() == ()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (QueueFull("m (queue_events)", 10, 10, 1, 0.5), Code.RESOURCE_EXHAUSTED),
        (QueueFull("m", 10, 10, 1, 0.0), Code.RESOURCE_EXHAUSTED),
        (IndexFull("at most 5 (index_items)"), Code.RESOURCE_EXHAUSTED),
        (UnknownModelVersion("no version '7'"), Code.NOT_FOUND),
        (StoreUnavailable("disk full; send them again"), Code.UNAVAILABLE),
        (BatcherClosed("m"), Code.UNAVAILABLE),
        (DeadlineExpired("m", 0.5), Code.DEADLINE_EXCEEDED),
        (WorkerCrashed("m", OSError("x")), Code.UNAVAILABLE),
        (WrongResultCount("m", 2, "1"), Code.UNAVAILABLE),
        (MemoryError(), Code.UNAVAILABLE),
        (asyncio.CancelledError(), Code.UNAVAILABLE),
        (ValueError("secret path /etc/x"), Code.UNAVAILABLE),
        (KeyError("x"), Code.UNAVAILABLE),
    ],
)
def test_whatever_a_room_raises_has_its_status(error: BaseException, code: grpc.StatusCode) -> None:
    made = as_call_error(error)
    assert made.code is code
    assert made.message
    details(made)


def test_a_deadline_that_passed_is_no_matter_for_the_log(caplog: pytest.LogCaptureFixture) -> None:
    as_call_error(DeadlineExpired("m", 0.5))
    assert caplog.records == []
    as_call_error(WrongResultCount("m", 2, "1"))
    assert len(caplog.records) == 1


def test_a_full_queue_names_limit_and_setting_and_when_to_retry() -> None:
    made = as_call_error(QueueFull("small (queue_events)", 10, 9, 2, 0.5))
    assert "queue_events" in made.message
    assert "10" in made.message
    assert details(made)[1].retry_delay.nanos == 500_000_000
    assert details(as_call_error(QueueFull("m", 1, 1, 1, 0.0)))[1].retry_delay.nanos > 0


def test_what_nobody_foresaw_tells_the_caller_nothing_of_the_inside() -> None:
    assert as_call_error(ValueError("secret path /etc/x")).message == (
        "the server could not complete the call; its log says why"
    )


def test_an_error_that_is_a_call_error_already_is_left_as_it_is() -> None:
    error = invalid("a", "b")
    assert as_call_error(error) is error


@pytest.mark.parametrize("text", ["x" * 100_000, "ü" * 50_000, "\U0001f600" * 20_000])
def test_what_repeats_a_callers_own_words_still_fits_into_trailers(text: str) -> None:
    for error in (invalid(text, text), as_call_error(UnknownModelVersion(text)), unavailable(text)):
        assert error.message.startswith(text[:100])
        as_sent = sum(3 if byte > 126 else 1 for byte in error.message.encode())
        as_sent += sum(len(value) * 4 // 3 for _, value in error.trailing_metadata())
        assert as_sent < 8192
        details(error)
