"""The gate: nothing too large, and nothing new once the server stops."""

import asyncio

import grpc
import pytest

from nextact_server.rpc.admission import Admission
from nextact_server.rpc.errors import CallError


def gate() -> Admission:
    return Admission(max_message_bytes=100)


def test_a_message_of_the_limit_comes_in_and_one_byte_more_does_not() -> None:
    admission = gate()
    admission.admit("Predict", (), "peer", 100)
    with pytest.raises(
        CallError, match=r"the message has 101 bytes; at most 100 are allowed \(max_message_bytes\)"
    ) as no:
        admission.admit("Predict", (), "peer", 101)
    assert no.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert no.value.trailing_metadata() == (), "the same message will not fit later"


def test_a_stopping_server_lets_nothing_new_in_and_wakes_who_waits_for_it() -> None:
    async def drain() -> None:
        admission = gate()
        waiting = asyncio.ensure_future(admission.draining.wait())
        admission.drain()
        assert await waiting
        with pytest.raises(CallError, match="the server is stopping") as no:
            admission.admit("Predict", (), "peer", 1)
        assert no.value.code is grpc.StatusCode.UNAVAILABLE

    asyncio.run(drain())
