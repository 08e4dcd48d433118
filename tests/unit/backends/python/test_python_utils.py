"""What `triton_python_backend_utils` holds: tensors, look-ups, logs and metrics."""

import json
import logging
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from python_house import House, Sink, ask, request_of, strings

from nextact_server.repository.backends.python.requests import InferenceRequest
from nextact_server.repository.backends.python.responses import InferenceResponse, received
from nextact_server.repository.backends.python.tensors import Tensor
from nextact_server.repository.backends.python.utils_module import utils_module


@pytest.fixture
def pb() -> ModuleType:
    return utils_module(None)


NAMES = """
InferenceRequest InferenceResponse Logger MetricFamily ModelConfig PreferredMemory TRITONSERVER_MEMORY_CPU
TRITONSERVER_MEMORY_GPU TRITONSERVER_REQUEST_FLAG_SEQUENCE_END TRITONSERVER_REQUEST_FLAG_SEQUENCE_START
TRITONSERVER_REQUEST_RELEASE_ALL TRITONSERVER_REQUEST_RELEASE_RESCHEDULE TRITONSERVER_RESPONSE_COMPLETE_FINAL
TRITON_STRING_TO_NUMPY Tensor TritonError TritonModelException deserialize_bytes_tensor get_input_config_by_name
get_input_tensor_by_name get_model_dir get_output_config_by_name get_output_tensor_by_name is_model_ready load_model
numpy_to_triton_type serialize_byte_tensor triton_string_to_numpy triton_to_numpy_type unload_model
using_decoupled_model_transaction_policy
"""


def test_every_name_of_tritons_module_is_there(pb: ModuleType) -> None:
    assert [name for name in NAMES.split() if not hasattr(pb, name)] == []


def test_a_tensor_keeps_the_array_that_it_is_made_of() -> None:
    array = np.zeros((3, 4), np.float32)
    tensor = Tensor("A", array)
    assert tensor.as_numpy() is array
    assert (tensor.name(), tensor.shape(), tensor.is_cpu(), tensor.triton_dtype()) == ("A", [3, 4], True, 11)
    assert Tensor("A", array.T).as_numpy().flags.c_contiguous


INCOMPATIBLE = """__init__(): incompatible constructor arguments. The following argument types are supported:
    1. c_python_backend_utils.Tensor(arg0: str, arg1: numpy.ndarray)

Invoked with: 'A', [1, 2]"""


@pytest.mark.parametrize(
    ("name", "array", "error", "message"),
    [
        ("A", [1, 2], "TypeError", INCOMPATIBLE),
        ("", np.zeros(2), "TritonModelException", "Tensor name cannot be an empty string."),
        ("A", np.zeros(2, np.complex64), "TritonModelException", "NumPy dtype is not supported."),
        ("A", np.zeros(2, ">f4"), "TritonModelException", "NumPy dtype is not supported."),
        ("A", np.zeros(2, "M8[s]"), "TritonModelException", "NumPy dtype is not supported."),
    ],
)  # fmt: skip
def test_what_is_no_tensor_is_refused(name: str, array: Any, error: str, message: str) -> None:
    with pytest.raises(Exception) as failure:  # noqa: PT011
        Tensor(name, array)
    assert (type(failure.value).__name__, str(failure.value)) == (error, message)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "uint8", "bool"])
def test_tensors_go_to_torch_and_back_by_dlpack(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    tensor = Tensor("A", np.array([[0, 1], [1, 1]], dtype))
    there = torch.from_dlpack(tensor)
    back = Tensor.from_dlpack("B", torch.utils.dlpack.from_dlpack(tensor.to_dlpack()))
    assert there.tolist() == tensor.as_numpy().tolist()
    assert (back.name(), back.as_numpy().dtype, back.as_numpy().tolist()) == ("B", dtype, there.tolist())
    with pytest.raises(Exception, match="not contiguous"):
        Tensor.from_dlpack("B", there.t())


def test_bf16_goes_by_dlpack_alone() -> None:
    torch = pytest.importorskip("torch")
    given = np.array([1.5, -2], ml_dtypes.bfloat16)
    (tensor,) = InferenceRequest._received(request_of(Sink(), given), print).inputs()
    with pytest.raises(Exception, match="Tensor dtype is BF16 and cannot be converted to NumPy"):
        tensor.as_numpy()
    there = torch.from_dlpack(tensor)
    assert (there.dtype, there.tolist(), tensor.triton_dtype()) == (torch.bfloat16, [1.5, -2], 14)
    assert Tensor.from_dlpack("B", there + 1)._array.tolist() == [2.5, -1]


def test_strings_have_no_dlpack() -> None:
    with pytest.raises(Exception, match="DLPack does not have support for string tensors"):
        Tensor("A", strings([b"x"])).to_dlpack()


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=8))
def test_serialized_strings_come_back(elements: list[bytes]) -> None:
    pb = utils_module(None)
    assert pb.deserialize_bytes_tensor(pb.serialize_byte_tensor(strings(elements))).tolist() == elements


def test_datatypes_are_converted_both_ways(pb: ModuleType) -> None:
    assert [pb.numpy_to_triton_type(pb.triton_to_numpy_type(code)) for code in range(1, 14)] == list(range(1, 14))
    assert (pb.triton_to_numpy_type(11), pb.triton_to_numpy_type(13)) == (np.float32, np.object_)
    assert pb.numpy_to_triton_type(np.bytes_) == 13
    assert (pb.triton_string_to_numpy("TYPE_FP32"), pb.triton_string_to_numpy("TYPE_STRING")) == (
        np.float32,
        np.object_,
    )


def test_configurations_are_looked_into(pb: ModuleType) -> None:
    config = {"input": [{"name": "A", "dims": [1]}], "output": [{"name": "B"}]}
    assert pb.get_input_config_by_name(config, "A") == {"name": "A", "dims": [1]}
    assert pb.get_output_config_by_name(config, "B") == {"name": "B"}
    assert pb.get_input_config_by_name(config, "B") is pb.get_output_config_by_name({}, "B") is None
    assert not pb.using_decoupled_model_transaction_policy(config)
    assert pb.using_decoupled_model_transaction_policy({"model_transaction_policy": {"decoupled": True}})


def test_responses_of_the_wrong_parts_are_refused(pb: ModuleType) -> None:
    for arguments in ([None], [[1]], [[], "error"]):
        with pytest.raises(TypeError, match="incompatible constructor arguments"):
            pb.InferenceResponse(*arguments)
    assert json.loads(pb.InferenceResponse(parameters={"a": 1}).parameters()) == {"a": 1}
    assert (received(None).output_tensors(), InferenceResponse().has_error()) == ([], False)


def test_models_log_at_the_level_they_name(house: House, caplog: pytest.LogCaptureFixture) -> None:
    body = """
    log = pb_utils.Logger
    log.log_info("info"); log.log_warn("warn"); log.log_error("error"); log.log_verbose("verbose")
    log.log("plain"); log.log("given", log.WARNING); log.log("named", level=log.LogLevel.ERROR)
    log.log_info(5)
    """
    with caplog.at_level(logging.DEBUG, "nextact_server.models.m"):
        told = ask(house.model("m", body)).value()
    lines = [(record.levelname, record.message) for record in caplog.records if record.name.endswith(".models.m")]
    assert lines == [
        ("INFO", "info"), ("WARNING", "warn"), ("ERROR", "error"), ("DEBUG", "verbose"),
        ("INFO", "plain"), ("WARNING", "given"), ("ERROR", "named"),
    ]  # fmt: skip
    assert "log_info(): incompatible function arguments" in told


METRICS = """
class TritonPythonModel:
    def initialize(self, args):
        F = self.F = pb_utils.MetricFamily
        self.count = F(name="m_count", description="counts", kind=F.COUNTER).Metric(labels={"a": "b"})
        self.gauge = F("m_gauge", "goes", F.GAUGE).Metric()
        self.times = F("m_times", "spreads", F.HISTOGRAM).Metric(labels={"a": 1}, buckets=[1, 10.5])
        self.count.increment(2)
        self.gauge.set(5.5); self.gauge.increment(-2)
        for value in (0.5, 1, 3, 100):
            self.times.observe(value)
    def execute(self, requests):
        F = self.F
        wrong = [
            lambda: self.count.increment(-1), lambda: self.count.set(1), lambda: self.gauge.observe(1),
            lambda: self.times.value(), lambda: F("m_count", "counts", F.GAUGE),
            lambda: F("m_count", "counts", F.COUNTER).Metric(labels={"a": "b"}, buckets=[1]),
            lambda: F("m_times", "spreads", F.HISTOGRAM).Metric(),
            lambda: F("m_gauge", "goes", F.GAUGE).Metric(labels={"1": 1}), lambda: F("a b", "", F.GAUGE),
        ]
        said = []
        for call in wrong:
            try:
                call()
            except pb_utils.TritonModelException as error:
                said.append(str(error).replace("Failed to process the request for model 'm_0', message: ", "*"))
        said.append([self.count.value(), self.gauge.value()])
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([json.dumps(said)]))])]
"""


def shown(house: House) -> list[str]:
    return [line for line in generate_latest(house.registry).decode().splitlines() if "m_" in line]


def test_a_models_metrics_are_shown_under_the_names_it_gives_until_it_is_gone(house: House) -> None:
    import gc

    model = house.load("m", METRICS)
    assert shown(house) == [
        "# HELP m_count counts", "# TYPE m_count counter", 'm_count{a="b"} 2.0',
        "# HELP m_gauge goes", "# TYPE m_gauge gauge", "m_gauge 3.5",
        "# HELP m_times spreads", "# TYPE m_times histogram",
        'm_times_bucket{a="1",le="1.0"} 2.0', 'm_times_bucket{a="1",le="10.5"} 3.0',
        'm_times_bucket{a="1",le="+Inf"} 4.0',
        'm_times_count{a="1"} 4.0', 'm_times_sum{a="1"} 104.5',
    ]  # fmt: skip
    house.close(model)
    del model
    gc.collect()
    assert shown(house) == []


def test_instances_share_a_metric_of_the_same_name_and_labels(house: House) -> None:
    house.write("m", METRICS)
    version = house.version("m")
    for number in range(2):
        house.instance(version, f"m_{number}")
    assert 'm_count{a="b"} 4.0' in shown(house)


ONLY_UP = "TRITONSERVER_METRIC_KIND_COUNTER can only be incremented monotonically by non-negative values."
TAKEN = "Metric name 'm_count' is already used by a family of another kind or description"


def test_what_a_metric_cannot_do_is_said_in_tritons_words(house: House) -> None:
    (told,) = ask(house.load("m", METRICS)).value()
    assert json.loads(told) == [
        f"Failed to increment metric value: *{ONLY_UP}",
        "Failed to set metric value: *TRITONSERVER_METRIC_KIND_COUNTER does not support Set",
        "Failed to observe metric value: *TRITONSERVER_METRIC_KIND_GAUGE does not support Observe",
        "Failed to get metric value: *TRITONSERVER_METRIC_KIND_HISTOGRAM does not support Value",
        f"Error when creating MetricFamily: *{TAKEN}",
        "Failed to create metric. Unexpected buckets found.",
        "Failed to create metric. Missing required buckets.",
        "Error when creating Metric: *Invalid label name",
        "Error when creating MetricFamily: *Invalid metric name",
        [2, 3.5],
    ]
