import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sequence_harness import CONTROLS, STATE, Accumulator, Call, harness, model_spec

from nextact_server.inference.infer_errors import InferError
from nextact_server.inference.infer_request import InferResponse
from nextact_server.inference.infer_spec import SequenceBatching, SequenceState, TensorSpec
from nextact_server.inference.tensors import DataType

IMPLICIT = SequenceBatching("direct", states=(STATE,))


def _out(call: Call) -> InferResponse:
    response = call.answer()
    assert isinstance(response, InferResponse)
    return response


def test_a_state_begins_with_zeros_comes_back_with_each_request_and_is_not_shown() -> None:
    with harness(model_spec(IMPLICIT)) as h:
        assert [h.call(1, value, how).out() for value, how in ((3, "start"), (4, ""), (5, "start"), (6, ""))] == [
            3,
            7,
            5,
            11,
        ]
        assert [batch[0]["SUM_IN"] for batch in h.model.batches] == [[[0]], [[3]], [[0]], [[5]]]
        assert set(_out(h.call(1)).outputs) == {"OUT"}


def test_a_state_begins_with_the_given_value() -> None:
    with harness(model_spec(IMPLICIT), initial_state={"SUM_IN": np.array([100], np.int32)}) as h:
        assert [h.call(id, 1, "start").out() for id in (1, 2, 1)] == [101, 101, 101]


@pytest.mark.parametrize("value", [np.array([1, 2], np.int32), np.array([1], np.int64), np.array(1, np.int32)])
def test_an_initial_value_that_does_not_fit_is_refused(value: np.ndarray) -> None:
    with pytest.raises(InferError, match="SUM_IN"), harness(model_spec(IMPLICIT), initial_state={"SUM_IN": value}):
        pass


def test_a_state_that_is_an_output_too_is_shown_to_who_asks_for_it() -> None:
    outputs = (TensorSpec("OUT", DataType.INT32, (1,)), TensorSpec("SUM_OUT", DataType.INT32, (1,)))
    with harness(model_spec(IMPLICIT, outputs=outputs)) as h:
        first = _out(h.call(1, 3, "start"))
        assert first.outputs["SUM_OUT"].tolist() == [[3]]
        assert set(_out(h.call(1, 1, output_names=("OUT",))).outputs) == {"OUT"}
        assert h.call(1, 1).out() == 5


def test_a_state_that_the_model_does_not_give_or_that_failed_stays_as_it_was() -> None:
    class Forgetful(Accumulator):
        def _one(self, request):  # type: ignore[no-untyped-def]
            response = super()._one(request)
            if request.inputs["IN"].item() == 7:
                del response.outputs["SUM_OUT"]
            return response

    with harness(model_spec(IMPLICIT), models=[Forgetful(implicit=True)]) as h:
        h.model.fail = {13}
        assert h.call(1, 3, "start").out() == 3
        assert h.call(1, 7).out() == 10
        h.call(1, 13).error()
        assert h.call(1, 1).out() == 4


def test_null_requests_have_a_state_of_zeros_and_change_none() -> None:
    with harness(model_spec(IMPLICIT)) as h:
        h.call(1, 3, "start").out()
        h.call(2, 4, "start").out()
        h.call(2, 4).out()
        assert [row["SUM_IN"] for row in h.model.batches[-1]] == [[[0]], [[4]]]
        assert h.call(1, 1).out() == 4


def test_a_model_that_does_not_batch_gets_a_state_without_batch_axis() -> None:
    with harness(model_spec(IMPLICIT, max_batch_size=0)) as h:
        h.call(1, 3, "start").out()
        assert h.model.batches[0][0]["SUM_IN"] == [0]


def test_a_variable_state_begins_one_element_long_and_other_lengths_run_apart() -> None:
    class Growing(Accumulator):
        def _one(self, request):  # type: ignore[no-untyped-def]
            grown = np.concatenate([request.inputs["SUM_IN"], request.inputs["IN"]], axis=1)
            return InferResponse({"OUT": np.array([[grown.shape[1]]], np.int32), "SUM_OUT": grown})

    states = (SequenceState("SUM_IN", "SUM_OUT", DataType.INT32, (-1,)),)
    with harness(model_spec(SequenceBatching("oldest", states=states)), models=[Growing()]) as h:
        assert [h.call(1, 5, "start").out(), h.call(1, 6).out()] == [2, 3]
        calls = h.calls((1, 7, ""), (2, 8, "start"))
        assert [call.out() for call in calls] == [4, 2]
        assert h.model.batches[-2][0]["SUM_IN"] == [[0, 5, 6]]
        assert [len(batch) for batch in h.model.batches] == [1, 1, 1, 1]


def test_a_state_given_by_a_model_that_answers_itself_is_kept_and_not_shown() -> None:
    class Answering(Accumulator):
        def execute(self, requests, times):  # type: ignore[no-untyped-def]
            for request, response in zip(requests, super().execute(requests, times), strict=True):
                request.respond(response)
            return [None] * len(requests)

    with harness(model_spec(IMPLICIT, decoupled=True), models=[Answering(implicit=True)]) as h:
        assert h.call(1, 3, "start").out() == 3
        last = h.call(1, 4)
        assert last.out() == 7
        assert set(_out(last).outputs) == {"OUT"}


_HOW = st.sampled_from(["", "", "", "start", "end", "start end"])
_STEPS = st.lists(st.tuples(st.integers(1, 6), st.integers(-50, 50), _HOW), max_size=60)
_BATCHINGS = st.sampled_from(
    [
        SequenceBatching("direct", controls=CONTROLS, states=(STATE,)),
        SequenceBatching("oldest", controls=CONTROLS, states=(STATE,), max_candidate_sequences=2),
        SequenceBatching("oldest", states=(STATE,), max_candidate_sequences=8, preferred_batch_size=(2,)),
    ]
)


@settings(max_examples=60, deadline=None)
@given(_STEPS, _BATCHINGS, st.integers(0, 4), st.integers(1, 2), st.data())
def test_any_interleaving_gives_what_a_dict_of_sums_gives(
    steps: list[tuple[int, int, str]],
    batching: SequenceBatching,
    max_batch_size: int,
    instances: int,
    data: st.DataObject,
) -> None:
    """A request gets the sum of its own sequence, whatever shares its batches; one without a start is refused."""
    sums: dict[int, int] = {}
    expected: list[int | None] = []
    for id, value, how in steps:
        if "start" in how:
            sums[id] = 0
        if id in sums:
            sums[id] += value
            expected.append(sums[id])
        else:
            expected.append(None)
        if "end" in how:
            sums.pop(id, None)
    with harness(model_spec(batching, max_batch_size=max_batch_size), instances=instances) as h:
        calls: list[Call] = []
        start = 0
        while start < len(steps):
            count = data.draw(st.integers(1, len(steps) - start))
            calls += h.calls(*steps[start : start + count])
            start += count
        closing = threading.Thread(target=h.scheduler.close)  # so that those beyond the slots get one
        closing.start()
        answers = [call.answer() for call in calls]
        closing.join()
    got = [int(a.outputs["OUT"].flat[0]) if isinstance(a, InferResponse) else None for a in answers]
    assert got == expected
    for model in h.models:
        for batch in model.batches:
            rows = [row["CORRID"] for row in batch if "CORRID" in row and row["READY"] in ([1.0], [[1.0]])]
            assert len(rows) == len({str(row) for row in rows}), "two requests of a sequence shared a batch"
