"""When the next event comes, in answers: of a model that foretells it, over both transports, for the moment asked."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.event_makers import START_US, arrow_message, event, new_name, predict, rows_message, stamp
from support.next_head import HORIZON_S, with_next_head
from support.open_stream import OpenStream
from support.serving import SHIPPED_MODELS, Serving, StartServer
from support.tiny_model import VERSION, tiny_card, tiny_model, write_repository

from nextact.v1 import behavior_pb2 as pb
from nextact_server.sequence.checkpoint import save_model


@pytest.fixture
def foretelling(start_server: StartServer, tmp_path: Path) -> Serving:
    """A server whose model foretells when the next event comes."""
    repository = write_repository(tmp_path / "models", SHIPPED_MODELS)
    model = with_next_head(tiny_model())
    save_model(model, tiny_card(model, exclude_seen=False), repository / "next_action" / VERSION)
    return start_server(model_repository=repository)


def next_of(server: Serving, *events: pb.Event, **options: Any) -> pb.Next:
    (prediction,) = server.stub.Predict(predict(events, outputs=[pb.OUTPUT_NEXT], **options)).predictions
    assert prediction.HasField("next")
    return prediction.next


def as_of_last(server: Serving, at: float, **options: Any) -> pb.Next:
    """What holds right after a first event of a new user, `at` seconds after the start."""
    return next_of(server, event(new_name(), at), as_of=stamp(START_US + int(at * 1e6)), **options)


def same(one: pb.Next, other: pb.Next) -> bool:
    names = ("expected_gap_s", "leave_probability", "horizon_s")
    return [getattr(one, name) for name in names] == pytest.approx([getattr(other, name) for name in names], rel=1e-4)


def test_predict_answers_when_the_next_event_comes(foretelling: Serving) -> None:
    said = next_of(foretelling, event(new_name()))
    assert said.horizon_s == HORIZON_S
    assert 0 < said.leave_probability < 1
    assert 0 < said.expected_gap_s <= 4 * HORIZON_S
    everything = foretelling.stub.Predict(predict([event(new_name())])).predictions[0]
    assert everything.HasField("next")
    assert len(everything.items) == 10


def test_it_is_absent_where_it_is_not_asked_for(foretelling: Serving) -> None:
    asked = predict([event(new_name())], outputs=[pb.OUTPUT_EMBEDDING, pb.OUTPUT_ACTIONS, pb.OUTPUT_ITEMS])
    assert not foretelling.stub.Predict(asked).predictions[0].HasField("next")


def test_it_is_absent_where_the_model_has_no_such_head(server: Serving) -> None:
    assert not server.stub.Predict(predict([event(new_name())])).predictions[0].HasField("next")


def test_another_moment_gives_another_answer_and_leaves_the_state(foretelling: Serving) -> None:
    user = new_name()
    next_of(foretelling, event(user, 0))
    moments = [stamp(START_US + seconds * 1_000_000) for seconds in (60, 600, 6000)]
    probes = [next_of(foretelling, event(user, 0, message_id="probe"), as_of=at, dry_run=True) for at in moments]
    assert len({probe.expected_gap_s for probe in probes}) == len(probes)
    assert same(probes[0], next_of(foretelling, event(user, 0, message_id="probe"), as_of=moments[0], dry_run=True))


def test_predict_is_of_now_unless_it_says_otherwise(foretelling: Serving) -> None:
    user, twin = new_name(), new_name()
    unsaid = next_of(foretelling, event(user, 0))
    said = next_of(foretelling, event(twin, 0), as_of=stamp(time.time_ns() // 1000))
    assert unsaid.expected_gap_s == pytest.approx(said.expected_gap_s, rel=1e-2)
    assert not same(unsaid, as_of_last(foretelling, 0))


@pytest.mark.parametrize("kind", ["LAST_PER_USER", "EVERY_EVENT"])
def test_a_stream_is_of_the_moment_of_its_events(foretelling: Serving, kind: str) -> None:
    events = [event(new_name(), at) for at in (0, 500)]
    stream = OpenStream(foretelling.channel).send(rows_message(1, events, predictions=kind))
    (answer,) = stream.rest()
    for prediction, at in zip(answer.predictions, (0, 500), strict=True):
        assert same(prediction.next, as_of_last(foretelling, at))


def test_a_stream_that_names_a_moment_is_of_that(foretelling: Serving) -> None:
    later = stamp(START_US + 3_000 * 1_000_000)
    message = rows_message(1, [event(new_name(), 0)], predictions="EVERY_EVENT", as_of=later)
    (answer,) = OpenStream(foretelling.channel).send(message).rest()
    assert same(answer.predictions[0].next, next_of(foretelling, event(new_name(), 0), as_of=later))


def test_columns_have_no_place_for_it_and_are_as_without(foretelling: Serving) -> None:
    message = arrow_message(1, [event(new_name(), 0)], predictions="EVERY_EVENT")
    (answer,) = OpenStream(foretelling.channel).send(message).rest()
    assert not answer.predictions
    assert len(answer.columns.item_ids) == 10
    assert np.isfinite(np.frombuffer(answer.columns.embedding.data, "<f4")).all()


def test_the_client_hands_it_on(foretelling: Serving) -> None:
    sent = {"user_id": new_name(), "action": "view", "event_time": datetime.now(UTC)}
    with foretelling.client() as client:
        (prediction,) = client.predict([sent]).predictions
    assert prediction.next is not None
    assert prediction.next.horizon_s == HORIZON_S
