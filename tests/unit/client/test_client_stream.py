"""Streams of both clients against a server that breaks off, answers late, and counts."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pytest
from fake_server import UNAVAILABLE, FakeServer, bad_request
from pauses import Pauses

from nextact import AsyncClient, Client, Event, EventStatus, NextactError, StreamRetry


def batches(count: int, rows: int = 2) -> list[list[Event]]:
    return [
        [Event(user_id=f"u{n % 3}", action="view", item_id=f"{n}-{row}") for row in range(rows)] for n in range(count)
    ]


def arrow(rows: int) -> pa.Table:
    return pa.table(
        {
            "user_id": [f"u{n % 3}" for n in range(rows)],
            "action": ["view"] * rows,
            "event_time": pa.array(range(rows), pa.timestamp("us", tz="UTC")),
        }
    )


def test_every_batch_is_acknowledged_once_in_order(client: Any, server: FakeServer) -> None:
    acknowledgements = list(client.stream(batches(20)))
    assert [a.number for a in acknowledgements] == list(range(1, 21))
    assert [(a.batch, a.offset, a.events, a.accepted) for a in acknowledgements] == [(n, 0, 2, 2) for n in range(20)]
    assert server.stream_numbers == [list(range(1, 21))]
    assert acknowledgements[0].model.version == "7"


def test_an_empty_source_and_empty_batches_send_nothing(client: Any, server: FakeServer) -> None:
    assert list(client.stream([])) == []
    assert list(client.stream([[], arrow(0)])) == []
    assert [numbers for numbers in server.stream_numbers if numbers] == []


def test_no_more_is_under_way_than_the_servers_window(client: Any, server: FakeServer) -> None:
    server.window = "messages=3,bytes=67108864"
    server.hold = 2  # acknowledges only when three are waiting
    assert len(list(client.stream(batches(30)))) == 30
    assert server.most_under_way == 3


def test_what_was_not_acknowledged_is_sent_again_under_the_same_numbers_and_ids(
    client: Any, server: FakeServer, pauses: Pauses
) -> None:
    server.drops.extend([(3, UNAVAILABLE), (0, UNAVAILABLE), (5, UNAVAILABLE), (2, None)])
    acknowledgements = list(client.stream(batches(20)))
    assert [a.number for a in acknowledgements] == list(range(1, 21))
    assert sum(a.accepted for a in acknowledgements) == 40
    assert len(server.seen) == 40
    assert [numbers[:1] for numbers in server.stream_numbers] in (
        [[1], [4], [4], [9], [11]],
        [[1], [], [4], [9], [11]],  # broken off before anything was read
    )
    assert len(pauses.seconds) == 4


def test_arrow_without_ids_is_sent_again_under_the_same_ids(client: Any, server: FakeServer) -> None:
    server.drops.extend([(1, UNAVAILABLE), (2, UNAVAILABLE)])
    acknowledgements = list(client.stream(iter([arrow(50)] * 6)))
    assert sum(a.accepted for a in acknowledgements) == 300
    assert len(server.seen) == 300


def test_an_id_prefix_makes_a_second_run_harmless(client: Any, server: FakeServer) -> None:
    day = arrow(30)
    assert sum(a.accepted for a in client.stream([day], id_prefix="day-1")) == 30
    again = list(client.stream([day[:10], day[10:]], id_prefix="day-1"))
    assert (sum(a.accepted for a in again), sum(a.duplicates for a in again)) == (0, 30)
    assert ("u2", "day-1-29") in server.seen


def test_a_stream_that_makes_no_progress_is_given_up(client: Any, server: FakeServer, pauses: Pauses) -> None:
    server.drops.extend([(1, UNAVAILABLE)] + [(0, UNAVAILABLE)] * 20)
    retry = StreamRetry(initial_s=1, max_s=4, attempts=4)
    got: list[int] = []
    with pytest.raises(NextactError, match="gave up after 4 attempts without an acknowledgement") as caught:
        got.extend(acknowledgement.number for acknowledgement in client.stream(batches(5), retry=retry))
    assert got == [1]
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert len(pauses.seconds) == 4
    for pause, longest in zip(pauses.seconds, [1, 2, 4, 4], strict=True):
        assert longest / 2 <= pause <= longest


def test_a_refusal_ends_the_stream(client: Any, server: FakeServer) -> None:
    refusal = bad_request("arrow_ipc", "unknown column 'colour'")
    server.drops.extend([(2, refusal)] + [(0, refusal)] * 8)  # grpc.aio may lose the first ones
    with pytest.raises(NextactError, match="unknown column 'colour'"):
        list(client.stream(batches(5)))


def test_an_acknowledgement_that_is_not_due_ends_the_stream(client: Any, server: FakeServer) -> None:
    server.skip_numbers = 1
    with pytest.raises(NextactError, match="acknowledged message 2, expected message 1"):
        list(client.stream(batches(2)))


def test_refused_events_come_as_failures_of_their_message(client: Any) -> None:
    [acknowledgement] = client.stream([[Event(user_id="ada", action="a"), Event(user_id="bad", action="a")]])
    [failure] = acknowledgement.failures
    assert (failure.index, failure.status, failure.field) == (1, EventStatus.INVALID, "user_id")
    assert acknowledgement.accepted == 1


def test_predictions_of_rows_come_as_values(client: Any) -> None:
    [acknowledgement] = client.stream([[Event(user_id="ada", action="view")]], predictions="every_event", top_k=2)
    assert [p.user_id for p in acknowledgement.predictions] == ["ada"]
    assert acknowledgement.columns is None


def test_predictions_of_arrow_come_as_views_of_the_bytes(client: Any) -> None:
    [acknowledgement] = client.stream([arrow(4)], predictions="EVERY_EVENT")
    columns = acknowledgement.columns
    assert columns.embedding.shape == (4, 3)
    assert columns.embedding.dtype == np.float32
    assert not columns.embedding.flags.owndata
    assert columns.embedding[3].tolist() == [9.0, 10.0, 11.0]
    assert (columns.actions.shape, columns.action_names) == ((4, 2), ("view", "like"))
    assert columns.item_ids.tolist() == [["1", ""]] * 4
    assert columns.item_scores[0].tolist() == [-1.0, -np.inf]
    assert columns.event_index.tolist() == [0, 1, 2, 3]
    assert columns.user_ids == ("u0", "u1", "u2", "u0")


def test_an_error_of_the_source_comes_after_the_acknowledgements_of_what_it_gave(client: Any) -> None:
    def source() -> Iterator[list[Event]]:
        yield from batches(3)
        raise OSError("the disk is gone")

    got: list[int] = []
    with pytest.raises(OSError, match="the disk is gone"):
        got.extend(acknowledgement.number for acknowledgement in client.stream(source()))
    assert got == [1, 2, 3]


def test_an_event_that_cannot_be_sent_is_named(client: Any) -> None:
    with pytest.raises(ValueError, match="an event has no field 'colour'"):
        list(client.stream([[{"user_id": "ada", "action": "view", "colour": "red"}]]))


def test_a_stream_can_be_ended_early(client: Any, server: FakeServer) -> None:
    def endless() -> Iterator[list[Event]]:
        while True:
            yield from batches(1)

    with closing(client.stream(endless())) as stream:
        assert [next(stream).number for _ in range(3)] == [1, 2, 3]
    assert client.delete_item("1") is False  # the client itself goes on


def test_a_source_may_wait_for_the_answer_to_what_it_gave(server: FakeServer) -> None:
    """A batch that depends on the acknowledgement before it: the source must not stand in the answers' way."""
    answers: queue.Queue[int] = queue.Queue()

    def source() -> Iterator[list[Event]]:
        for batch in batches(3):
            yield batch
            answers.get(timeout=30)

    numbers = []
    with Client(server.target) as client:
        for acknowledgement in client.stream(source()):
            numbers.append(acknowledgement.number)
            answers.put(acknowledgement.number)
    assert numbers == [1, 2, 3]


def test_an_asynchronous_source_may_wait_for_the_answer_to_what_it_gave(server: FakeServer) -> None:
    async def run() -> list[int]:
        answers: asyncio.Queue[int] = asyncio.Queue()

        async def source() -> AsyncIterator[list[Event]]:
            for batch in batches(3):
                yield batch
                await answers.get()

        numbers = []
        async with AsyncClient(server.target) as client:
            async for acknowledgement in client.stream(source()):
                numbers.append(acknowledgement.number)
                await answers.put(acknowledgement.number)
        return numbers

    assert asyncio.run(asyncio.wait_for(run(), 60)) == [1, 2, 3]


def test_a_cancelled_stream_leaves_no_task(server: FakeServer) -> None:
    async def run() -> set[str]:
        async with AsyncClient(server.target) as client:
            got = asyncio.Event()

            async def endless() -> AsyncIterator[list[Event]]:
                yield batches(1)[0]
                await asyncio.Event().wait()

            async def consume() -> None:
                async for _ in client.stream(endless()):
                    got.set()

            consumer = asyncio.create_task(consume())
            await got.wait()
            consumer.cancel()
            await asyncio.gather(consumer, return_exceptions=True)
            return {task.get_name() for task in asyncio.all_tasks() if "nextact" in task.get_name()}

    assert asyncio.run(asyncio.wait_for(run(), 60)) == set()
