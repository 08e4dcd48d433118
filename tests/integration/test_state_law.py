"""The law of state: N events in any grouping, by any way in, leave what N single calls leave."""

from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.event_makers import arrow_message, event, new_name, predict, rows_message
from support.open_stream import OpenStream
from support.serving import Serving
from support.tiny_model import ACTIONS, ITEMS

from nextact.v1 import behavior_pb2 as pb

NOTES = ("a note", "another note")

moments = st.tuples(
    st.integers(0, 1),  # whose
    st.sampled_from((*ACTIONS, "unheard of")),
    st.sampled_from((*ITEMS[:5], "", "unheard of")),
    st.integers(-5, 200),  # seconds since the one before, equal times and late ones included
    st.sampled_from(("", "", "", *NOTES)),
)
plans = st.lists(st.tuples(st.integers(1, 7), st.sampled_from(("predict", "rows", "arrow"))), min_size=1, max_size=12)


def told(users: tuple[str, str], steps: list[tuple[int, str, str, int, str]]) -> list[pb.Event]:
    events, at = [], 0
    for number, (who, action, item, gap, text) in enumerate(steps):
        at += gap
        events.append(event(users[who], at, action=action, item_id=item, text=text, message_id=str(number)))
    return events


def send_grouped(server: Serving, events: list[pb.Event], plan: list[tuple[int, str]]) -> None:
    stream = OpenStream(server.channel)
    number = start = step = 0
    while start < len(events):
        size, way = plan[step % len(plan)]
        part, start, step = events[start : start + size], start + size, step + 1
        if way == "predict":
            server.stub.Predict(predict(part, outputs=["OUTPUT_ACTIONS"]))
            continue
        number += 1
        stream.send(rows_message(number, part) if way == "rows" else arrow_message(number, part))
        assert not [f for f in stream.receive().failures if f.status == pb.EVENT_STATUS_INVALID]
    assert stream.rest() == []


def portrait(server: Serving, user: str) -> tuple[Any, ...]:
    """All that can be seen of a user: what is predicted now, and what of each event is held."""
    (now,) = server.stub.Predict(predict([event(user, action="")], top_k=1)).predictions
    scores = {score.action: score.score for score in now.actions}
    if not now.events_seen:
        return np.array([*now.embedding, *(scores[action] for action in ACTIONS)]), 0, []
    held = server.stub.GetUser(pb.GetUserRequest(user_id=user))
    rows = [
        (entry.event.message_id, entry.status, entry.applied, entry.effective_time.ToMicroseconds(), entry.content_hash)
        for entry in held.history
    ]
    return np.array([*now.embedding, *(scores[action] for action in ACTIONS)]), now.events_seen, rows


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(steps=st.lists(moments, min_size=1, max_size=24), plan=plans)
def test_any_grouping_by_any_way_in_equals_single_calls(
    server: Serving, steps: list[tuple[int, str, str, int, str]], plan: list[tuple[int, str]]
) -> None:
    grouped, single = (new_name(), new_name()), (new_name(), new_name())
    send_grouped(server, told(grouped, steps), plan)
    for one in told(single, steps):
        server.stub.Predict(predict([one], outputs=["OUTPUT_ACTIONS"]))
    for first, second in zip(grouped, single, strict=True):
        together, alone = portrait(server, first), portrait(server, second)
        np.testing.assert_allclose(together[0], alone[0], atol=1e-5)
        assert together[1:] == alone[1:]


def test_concurrent_users_end_as_if_each_had_been_alone(server: Serving) -> None:
    users = [new_name() for _ in range(40)]
    calls = []
    for number in range(6):
        calls = [
            server.stub.Predict.future(
                predict([event(user, 10 * number, action=ACTIONS[number % 4], item_id=ITEMS[number * 3])], top_k=3)
            )
            for user in users
        ]
        for call in calls:
            assert call.result().results[0].status == pb.EVENT_STATUS_ACCEPTED
    alone = new_name()
    for number in range(6):
        expected = server.stub.Predict(
            predict([event(alone, 10 * number, action=ACTIONS[number % 4], item_id=ITEMS[number * 3])], top_k=3)
        ).predictions[0]
    for call in calls:
        prediction = call.result().predictions[0]
        np.testing.assert_allclose(prediction.embedding, expected.embedding, atol=1e-5)
        assert [item.item_id for item in prediction.items] == [item.item_id for item in expected.items]
