"""Ensembles that do not fit their members, told in Triton's words."""

import pytest
from ensemble_house import House, ensemble, model, step, tensors

from nextact_server.inference.infer_errors import ErrorCode, InferError
from nextact_server.inference.infer_spec import ModelSpec, TensorSpec
from nextact_server.inference.scheduling.ensemble_check import check_ensemble
from nextact_server.inference.tensors import DataType

HOUSE = House()
HOUSE.add(model("one", tensors("x"), tensors("y")))
HOUSE.add(model("two", tensors("a", "b"), tensors("y")))
HOUSE.add(model("large", tensors("x"), tensors("y"), max_batch_size=4))
HOUSE.add(model("plain", tensors("x"), tensors("y"), max_batch_size=0))
HOUSE.add(model("ints", [TensorSpec("x", DataType.INT32, (-1,))], tensors("y")))
HOUSE.add(model("wide", tensors("x", dims=(3,)), tensors("y", dims=(5,))))
HOUSE.add(model("many", tensors("x"), tensors("y"), decoupled=True))

IN_OUT = (["in"], ["out"])


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (
            ensemble(*IN_OUT, step("nosuch", {"x": "in"}, {"y": "out"})),
            "ensemble ens contains models that are not available or ambiguous: nosuch",
        ),
        (
            ensemble(*IN_OUT, step("large", {"x": "in"}, {"y": "out"})),
            (
                "ensemble ens allows maximum batch size 8, but it contains model large which only allows maximum batch "
                "size to be 4"
            ),
        ),
        (
            ensemble(*IN_OUT, step("one", {"NOPE": "in"}, {"y": "out"})),
            "in ensemble ens, ensemble tensor in is mapping to non-existing input NOPE in model one",
        ),
        (
            ensemble(*IN_OUT, step("two", {"a": "in"}, {"y": "out"})),
            "in ensemble ens, input b in model two is not mapped to any ensemble tensors",
        ),
        (
            ensemble(*IN_OUT, step("one", {"x": "in"}, {"z": "out"})),
            "in ensemble ens, ensemble tensor out is mapped from non-existing output z in model one",
        ),
        (
            ensemble(*IN_OUT, step("ints", {"x": "in"}, {"y": "out"})),
            (
                "in ensemble ens, ensemble tensor in: inconsistent data type: TYPE_FP32 is inferred from model ens "
                "while TYPE_INT32 is inferred from model ints"
            ),
        ),
        (
            ensemble(*IN_OUT, step("wide", {"x": "in"}, {"y": "mid"}), step("wide", {"x": "mid"}, {"y": "out"})),
            (
                "in ensemble ens, ensemble tensor mid: inconsistent shape: [-1,5] is inferred from model wide while "
                "[-1,3] is inferred from model wide"
            ),
        ),
        (
            ensemble(
                *IN_OUT, step("many", {"x": "in"}, {"y": "mid"}), step("two", {"a": "mid", "b": "in"}, {"y": "out"})
            ),
            "in ensemble ens, step of model 'ens' receives inputs originated from different decoupled models",
        ),
        (
            ensemble(["in"], ["a", "b"], step("many", {"x": "in"}, {"y": "a"}), step("one", {"x": "in"}, {"y": "b"})),
            "in ensemble ens, step of model 'ens' receives inputs originated from different decoupled models",
        ),
    ],
)
def test_what_does_not_fit_is_refused_at_load(spec: ModelSpec, told: str) -> None:
    with pytest.raises(InferError) as failure:
        check_ensemble(spec, HOUSE.spec)
    assert failure.value.code is ErrorCode.INVALID_ARG
    assert failure.value.message == told


@pytest.mark.parametrize(
    ("spec", "decoupled"),
    [
        (ensemble(*IN_OUT, step("one", {"x": "in"}, {"y": "out"})), False),
        (ensemble(*IN_OUT, step("plain", {"x": "in"}, {"y": "out"})), False),
        (ensemble(*IN_OUT, step("many", {"x": "in"}, {"y": "out"})), True),
        (ensemble(*IN_OUT, step("one", {"x": "mid"}, {"y": "out"}), step("many", {"x": "in"}, {"y": "mid"})), True),
    ],
)
def test_an_ensemble_is_decoupled_if_a_member_is(spec: ModelSpec, decoupled: bool) -> None:
    assert check_ensemble(spec, HOUSE.spec) is decoupled
