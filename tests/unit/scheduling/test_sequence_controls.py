import numpy as np
import pytest
from sequence_harness import harness, model_spec

from nextact_server.inference.infer_errors import ErrorCode
from nextact_server.inference.infer_request import InferRequest, InferResponse
from nextact_server.inference.infer_spec import ControlKind, SequenceBatching, SequenceControl
from nextact_server.inference.tensors import DataType, Tensor


class Keeper:
    """Keeps the inputs it was given."""

    retry_safe = False

    def __init__(self) -> None:
        self.inputs: list[dict[str, Tensor]] = []

    def execute(self, requests: list[InferRequest], times: object) -> list[InferResponse]:
        self.inputs += [request.inputs for request in requests]
        return [InferResponse({"OUT": request.inputs["IN"]}) for request in requests]

    def release(self) -> None: ...

    def close(self) -> None: ...


def _kept(
    *controls: SequenceControl, requests: list[tuple[int | str, int, str]], **spec: int
) -> list[dict[str, Tensor]]:
    keeper = Keeper()
    with harness(model_spec(SequenceBatching("direct", controls=controls), **spec), models=[keeper]) as h:
        for request in requests:
            h.calls(request)[0].out()
    return keeper.inputs


@pytest.mark.parametrize(
    ("datatype", "false_true"),
    [(DataType.INT32, (0, 1)), (DataType.INT32, (5, -6)), (DataType.FP32, (0.0, 1.0)), (DataType.FP32, (-0.5, 2.5)),
     (DataType.BOOL, (False, True)), (DataType.BOOL, (True, False))],
)  # fmt: skip
def test_flags_are_given_in_the_values_and_type_that_the_model_names(
    datatype: DataType, false_true: tuple[float, float]
) -> None:
    controls = [SequenceControl(kind.name, kind, datatype, false_true) for kind in ControlKind if kind.name != "CORRID"]
    kept = _kept(*controls, requests=[(1, 1, "start"), (1, 1, ""), (1, 1, "end"), (1, 1, "start end")])
    false, true = false_true
    assert [inputs["START"].item() for inputs in kept] == [true, false, false, true]
    assert [inputs["END"].item() for inputs in kept] == [false, false, true, true]
    assert [inputs["READY"].item() for inputs in kept] == [true] * 4
    assert {(inputs["END"].dtype, inputs["END"].shape) for inputs in kept} == {(datatype.numpy, (1, 1))}


@pytest.mark.parametrize(
    ("datatype", "id", "told"),
    [
        (DataType.UINT64, (1 << 64) - 1, (1 << 64) - 1),
        (DataType.INT64, (1 << 64) - 5, -5),
        (DataType.UINT32, (1 << 40) + 5, 5),
        (DataType.INT32, 0xFFFFFFFF, -1),
        (DataType.BYTES, "user é", "user é".encode()),
    ],
)
def test_the_correlation_id_is_given_in_the_type_that_the_model_names(
    datatype: DataType, id: int | str, told: object
) -> None:
    (inputs,) = _kept(SequenceControl("ID", ControlKind.CORRID, datatype), requests=[(id, 1, "start")])
    assert inputs["ID"].dtype == datatype.numpy
    assert inputs["ID"].tolist() == [[told]]


def test_a_null_request_has_the_correlation_id_of_nobody() -> None:
    for datatype, first, second, nobody in (
        (DataType.INT64, 1, 2, 0),
        (DataType.BYTES, "a", "b", b""),
    ):
        control = SequenceControl("ID", ControlKind.CORRID, datatype)
        kept = _kept(control, requests=[(first, 1, "start"), (second, 2, "start")])
        assert kept[1]["ID"].tolist() == [[nobody]]
        assert kept[1]["ID"].dtype == datatype.numpy


@pytest.mark.parametrize(
    ("datatype", "id", "words"),
    [(DataType.BYTES, 7, "is not a string"), (DataType.UINT64, "seven", "is not an unsigned int")],
)
def test_an_id_that_the_model_cannot_be_told_is_refused(datatype: DataType, id: int | str, words: str) -> None:
    control = SequenceControl("ID", ControlKind.CORRID, datatype)
    with harness(model_spec(SequenceBatching("direct", controls=(control,)))) as h:
        error = h.call(id, 1, "start").error()
        assert error.code is ErrorCode.INVALID_ARG
        assert f"correlation ID in request {words}" in error.message


def test_an_int_and_a_string_of_the_same_digits_are_two_sequences() -> None:
    with harness(model_spec(SequenceBatching("direct"))) as h:
        h.call(7, 1, "start").out()
        assert "must specify the START flag" in h.call("7").error().message


def test_a_model_that_writes_into_its_controls_does_not_change_those_of_others() -> None:
    class Vandal(Keeper):
        def execute(self, requests: list[InferRequest], times: object) -> list[InferResponse]:
            results = super().execute(requests, times)
            seen.append([request.inputs["START"].item() for request in requests])
            for request in requests:
                request.inputs["START"][:] = 99
            return results

    seen: list[list[int]] = []
    control = SequenceControl("START", ControlKind.START, DataType.INT32)
    with harness(model_spec(SequenceBatching("direct", controls=(control,))), models=[Vandal()]) as h:
        call = h.call(1, 1, "start")
        call.out()
        h.call(1).out()
        h.call(1).out()
    assert seen == [[1], [0], [0]]


def test_the_callers_own_inputs_stay_as_they_were() -> None:
    with harness(model_spec(SequenceBatching("direct"))) as h:
        inputs = {"IN": np.ones((1, 1), np.int32)}
        call = h.call(1, 1, "start")
        call.out()
        assert set(inputs) == {"IN"}
