"""Answers to bytes: what is laid out by hand is what the generated code reads and would have written."""

from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextact.v1 import behavior_pb2 as pb
from nextact_server.events.arrival import arrive
from nextact_server.events.batch import EventBatch
from nextact_server.events.call import Answer, Call, CallOptions, NextColumns, Predictions, Want
from nextact_server.events.status import Fault, Status
from nextact_server.events.validation import EventLimits
from nextact_server.rpc.encode import Encoder, tensor
from nextact_server.rpc.prediction_wire import varint
from nextact_server.sequence.stage import Ranked

NOW = 1_700_000_000_000_000
ACTIONS = ("view", "buy", "ü-ber")
ITEMS = ["", "", "", *(f"item-{row}" for row in range(3, 200))]


def item_ids(rows: np.ndarray) -> list[str]:
    return [ITEMS[row] for row in rows.tolist()]


ENCODER = Encoder(("next_action", "3"), ACTIONS, item_ids, "memory", "text/1+image/1")


def answer_of(
    calls: Sequence[Call], users: Sequence[tuple[str, str]], status: Sequence[int], predictions: Predictions | None
) -> Answer:
    n = len(users)
    batch = EventBatch(
        size=n,
        event_time=np.full(n, NOW),
        user_id=pa.array([user for user, _ in users], pa.string()),
        anonymous_id=pa.array([visitor or None for _, visitor in users], pa.string()),
        message_id=pa.array([f"m{row}" if row % 3 else "" for row in range(n)], pa.string()),
        action=pa.array(["view"] * n, pa.string()),
    )
    arrival = arrive(batch, calls, EventLimits(), {}, NOW)
    arrival.faults.clear()
    for row, code in enumerate(status):
        if code in (Status.INVALID, Status.OVERLOADED):
            arrival.faults[row] = Fault("text", f"reason {row}", Status(code))
    durable: Future[None] = Future()
    original = [Status.LATE if code == Status.DUPLICATE else 0 for code in status]
    applied = [code in (Status.ACCEPTED, Status.DUPLICATE) for code in status]
    return Answer(
        arrival=arrival,
        status=np.array(status, np.int8),
        original=np.array(original, np.int8),
        applied=np.array(applied, np.bool_),
        predictions=predictions,
        durable=durable,
        compute_us=77,
    )


def plain_result(answer: Answer, row: int, index: int) -> pb.EventResult:
    status = int(answer.status[row])
    result = pb.EventResult(
        index=index,
        message_id=answer.arrival.message_ids[row].as_py(),
        status=status,
        original_status=int(answer.original[row]),
        applied=bool(answer.applied[row]),
        id_derived=bool(answer.arrival.derived[row]),
    )
    if status == Status.SUPPRESSED:
        result.reason, result.field = "the user asked not to be recorded", "user_id"
    elif status in (Status.INVALID, Status.OVERLOADED):
        fault = answer.arrival.faults[row]
        result.reason, result.field = fault.reason, fault.field
    return result


def plain_prediction(answer: Answer, at: int) -> pb.Prediction:
    columns, batch = answer.predictions, answer.arrival.batch
    row, call = int(columns.row[at]), answer.arrival.calls[int(columns.call[at])]
    want = call.options.want
    user = batch.user_id[row].as_py() or ""
    made = pb.Prediction(
        user_id=user,
        anonymous_id="" if user else batch.anonymous_id[row].as_py() or "",
        events_seen=int(columns.events_seen[at]),
        event_index=row - call.start - call.history,
    )
    if columns.embedding is not None and want & Want.EMBEDDING:
        made.embedding.extend(columns.embedding[at].tolist())
    if columns.actions is not None and want & Want.ACTIONS:
        scores = columns.actions[at].tolist()
        for action in sorted(range(len(ACTIONS)), key=lambda action: -scores[action]):
            made.actions.add(action=ACTIONS[action], score=scores[action])
    if columns.item_rows is not None and want & Want.ITEMS:
        for item, score in zip(columns.item_rows[at].tolist(), columns.item_scores[at].tolist(), strict=True):
            if item >= 0:
                made.items.add(item_id=ITEMS[item], score=score)
    if columns.next is not None and want & Want.NEXT:
        made.next.expected_gap_s = columns.next.expected_gap_s[at]
        made.next.leave_probability = columns.next.leave_probability[at]
        made.next.horizon_s = columns.next.horizon_s
    return made


ids = st.sampled_from([("u", ""), ("", "v"), ("u", "v"), ("", ""), ("ü" * 70, "")])
codes = st.sampled_from([int(code) for code in Status])
wants = st.sampled_from([Want.ALL, Want.EMBEDDING, Want.ACTIONS, Want.ITEMS, Want.NEXT, Want.NOTHING])


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    sizes = draw(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), min_size=1, max_size=3))
    calls, at = [], 0
    for events, history in sizes:
        calls.append(Call(at, at + events + history, CallOptions(want=draw(wants)), history))
        at += events + history
    users = draw(st.lists(ids, min_size=at, max_size=at))
    status = draw(st.lists(codes, min_size=at, max_size=at))
    rows = [row for row in range(at) if draw(st.booleans())]
    if not rows:
        return answer_of(calls, users, status, None)
    random = np.random.default_rng(draw(st.integers(0, 99)))
    k = draw(st.integers(1, 4))
    kept = random.integers(0, k + 1, len(rows))[:, None] > np.arange(k)[None, :]
    items = np.where(kept, random.integers(3, 200, (len(rows), k)), -1)
    n = len(rows)
    coming = NextColumns(
        expected_gap_s=random.choice([0.0, 0.1, 3e6], n).astype(np.float32),
        leave_probability=random.choice([0.0, 0.3, 1.0], n).astype(np.float32),
        horizon_s=604_800.0,
    )
    predictions = Predictions(
        call=np.searchsorted([call.stop for call in calls], rows, side="right"),
        row=np.array(rows, np.int64),
        events_seen=random.choice([0, 1, 127, 128, 300, 2**40], len(rows)),
        embedding=random.standard_normal((len(rows), 40)).astype(np.float32) if draw(st.booleans()) else None,
        actions=random.choice([0.0, 0.25, 0.5], (len(rows), 3)).astype(np.float32) if draw(st.booleans()) else None,
        item_rows=items,
        item_scores=np.where(kept, random.standard_normal((len(rows), k)), -np.inf).astype(np.float32),
        next=coming if draw(st.booleans()) else None,
    )
    return answer_of(calls, users, status, predictions)


@given(answer=answers())
@settings(max_examples=150, deadline=None)
def test_predict_responses_are_those_the_generated_code_would_have_made(answer: Answer) -> None:
    made = [pb.PredictResponse.FromString(data) for data in ENCODER.predict_responses(answer, 11, 22)]
    assert len(made) == len(answer.arrival.calls)
    for number, (response, call) in enumerate(zip(made, answer.arrival.calls, strict=True)):
        first = call.start + call.history
        mine = [] if answer.predictions is None else np.flatnonzero(answer.predictions.call == number).tolist()
        assert response == pb.PredictResponse(
            results=[plain_result(answer, row, row - first) for row in range(first, call.stop)],
            predictions=[plain_prediction(answer, at) for at in mine],
            model=pb.Model(name="next_action", version="3"),
            timing=pb.Timing(queue_us=11, compute_us=77, store_us=22),
            durability=pb.DURABILITY_MEMORY,
        )


@given(answer=answers().filter(lambda answer: len(answer.arrival.calls) == 1 and not answer.arrival.calls[0].history))
@settings(max_examples=60, deadline=None)
def test_stream_responses_of_rows_count_and_list_what_the_contract_says(answer: Answer) -> None:
    response = pb.StreamEventsResponse.FromString(ENCODER.stream_response(9, answer, columnar=False))
    status = answer.status.tolist()
    listed = [row for row, code in enumerate(status) if code not in (Status.ACCEPTED, Status.DUPLICATE)]
    rows = [] if answer.predictions is None else range(len(answer.predictions.row))
    assert response == pb.StreamEventsResponse(
        number=9,
        accepted=sum(code in (Status.ACCEPTED, Status.LATE) for code in status),
        duplicates=status.count(Status.DUPLICATE),
        failures=[plain_result(answer, row, row) for row in listed],
        predictions=[plain_prediction(answer, at) for at in rows],
        model=pb.Model(name="next_action", version="3"),
    )


@given(answer=answers().filter(lambda answer: len(answer.arrival.calls) == 1 and answer.predictions is not None))
@settings(max_examples=40, deadline=None)
def test_columns_hold_matrices_of_as_many_rows_as_predictions(answer: Answer) -> None:
    response = pb.StreamEventsResponse.FromString(ENCODER.stream_response(9, answer, columnar=True))
    got, columns = response.columns, answer.predictions
    want = answer.arrival.calls[0].options.want
    n = len(columns.row)
    assert not response.predictions
    assert list(got.event_index) == columns.row.tolist()
    assert list(got.user_ids) == [answer.arrival.batch.user_id[row].as_py() for row in columns.row.tolist()]
    assert len(got.anonymous_ids) == n
    assert matrix(got.embedding, want & Want.EMBEDDING, columns.embedding)
    assert matrix(got.actions, want & Want.ACTIONS, columns.actions)
    assert matrix(got.item_scores, want & Want.ITEMS, columns.item_scores)
    if want & Want.ITEMS:
        wanted = ["" if row < 0 else ITEMS[row] for row in columns.item_rows.reshape(-1).tolist()]
        assert list(got.item_ids) == wanted


def matrix(got: pb.Tensor, wanted: int, columns: np.ndarray | None) -> bool:
    if not wanted or columns is None:
        return not got.data
    return bool((np.frombuffer(got.data, "<f4").reshape(got.shape) == columns).all()) and got.dtype == "FP32"


def test_a_tensor_is_row_major_little_endian_whatever_the_matrix_was() -> None:
    turned = np.arange(6, dtype=np.float32).reshape(3, 2).T
    made = tensor(turned)
    assert (made.dtype, list(made.shape)) == ("FP32", [2, 3])
    assert made.data == np.array([0, 2, 4, 1, 3, 5], "<f4").tobytes()


def test_a_user_whom_only_the_history_names_has_a_negative_event_index() -> None:
    calls = [Call(0, 3, CallOptions(want=Want.NOTHING), history=2)]
    predictions = Predictions(call=np.zeros(2, np.int64), row=np.array([0, 2]), events_seen=np.array([1, 1]))
    answer = answer_of(calls, [("a", ""), ("b", ""), ("b", "")], [Status.ACCEPTED] * 3, predictions)
    response = pb.PredictResponse.FromString(ENCODER.predict_responses(answer, 0, 0)[0])
    assert [(p.user_id, p.event_index) for p in response.predictions] == [("a", -2), ("b", 0)]
    assert len(response.results) == 1


def test_a_call_that_was_taken_back_says_so() -> None:
    answer = answer_of([Call(0, 1, CallOptions())], [("a", "")], [Status.ACCEPTED], None)
    answer.status[0] = Status.INVALID
    response = pb.PredictResponse.FromString(ENCODER.predict_responses(answer, 0, 0)[0])
    assert response.results[0].reason == "the call was taken back"


def test_ranked_items_come_with_ids_scores_and_what_was_seen() -> None:
    ranked = Ranked(np.array([5, 3]), np.array([1.5, -2.0], np.float32), 7, Future())
    assert ENCODER.rank_response(ranked) == pb.RankResponse(
        items=[pb.ItemScore(item_id="item-5", score=1.5), pb.ItemScore(item_id="item-3", score=-2.0)],
        model=pb.Model(name="next_action", version="3"),
        events_seen=7,
    )


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 2**14, 2**32, 2**63 - 1])
def test_numbers_are_written_as_protobuf_writes_them(number: int) -> None:
    written = pb.Prediction(events_seen=number).SerializeToString()
    assert (b"\x30" + varint(number) if number else b"") == written
