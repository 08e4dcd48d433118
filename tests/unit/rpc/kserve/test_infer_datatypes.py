"""Tensors of every datatype come through as tritonclient writes and reads them."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from infer_fakes import client_request, infer_input, model_spec, raw_request, read
from tritonclient.grpc import InferResult
from tritonclient.grpc import service_pb2 as pb

from nextact_server.inference.infer_request import InferResponse
from nextact_server.inference.infer_spec import ModelSpec
from nextact_server.inference.tensors import DataType, Tensor
from nextact_server.rpc.kserve.encode import infer_response

FIXED = [each for each in DataType if each not in (DataType.BYTES, DataType.BF16)]
TYPED = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
shapes = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=5)


def spec_of(datatype: DataType) -> ModelSpec:
    return model_spec("identity", datatype.value, (-1,), max_batch_size=64)


def echoed(datatype: DataType, message: pb.ModelInferRequest) -> Any:
    """What tritonclient reads of an identity's answer."""
    request = read(spec_of(datatype), message)
    response = infer_response(request, InferResponse({"OUT": request.inputs["IN"]}))
    parsed = pb.ModelInferResponse.FromString(response)
    assert (parsed.model_name, parsed.model_version, parsed.id) == ("identity", "1", message.id)
    assert parsed.outputs[0].datatype == datatype.value
    return InferResult(parsed).as_numpy("OUT")


@pytest.mark.parametrize("datatype", FIXED)
@given(data=st.data())
def test_raw_tensors_come_back_bit_by_bit(datatype: DataType, data: st.DataObject) -> None:
    array = data.draw(hnp.arrays(datatype.numpy, shapes))
    found = echoed(datatype, client_request("identity", [infer_input(array, datatype.value)], request_id="a"))
    assert found.dtype == array.dtype
    assert found.tobytes() == array.tobytes()
    assert found.shape == array.shape


@given(hnp.arrays(np.object_, shapes, elements=st.binary(max_size=20)))
def test_bytes_come_back_element_by_element(array: Tensor) -> None:
    found = echoed(DataType.BYTES, client_request("identity", [infer_input(array, "BYTES")]))
    assert found.tolist() == array.tolist()


@given(hnp.arrays(np.uint16, shapes))
def test_bf16_comes_back_bit_by_bit(bits: Tensor) -> None:
    """tritonclient turns BF16 into float32 on its side; here the bits themselves are compared."""
    message = raw_request("identity", [("IN", "BF16", bits.shape)], [bits.tobytes()])
    request = read(spec_of(DataType.BF16), message)
    assert request.inputs["IN"].dtype == ml_dtypes.bfloat16
    response = infer_response(request, InferResponse({"OUT": request.inputs["IN"]}))
    parsed = pb.ModelInferResponse.FromString(response)
    assert parsed.raw_output_contents[0] == bits.tobytes()
    assert (parsed.outputs[0].datatype, list(parsed.outputs[0].shape)) == ("BF16", list(bits.shape))


@pytest.mark.parametrize("datatype", [DataType(name) for name in TYPED])
@given(data=st.data())
def test_typed_contents_say_the_same_as_raw_ones(datatype: DataType, data: st.DataObject) -> None:
    elements = st.binary(max_size=9) if datatype is DataType.BYTES else None
    array = data.draw(hnp.arrays(datatype.numpy, shapes, elements=elements))
    message = raw_request("identity", [("IN", datatype.value, array.shape)], [])
    getattr(message.inputs[0].contents, TYPED[datatype.value]).extend(array.reshape(-1).tolist())
    found = echoed(datatype, message)
    assert found.shape == array.shape
    if datatype is DataType.BYTES:
        assert found.tolist() == array.tolist()
    else:
        np.testing.assert_array_equal(found, array)


def test_typed_values_beyond_the_datatype_are_cut_to_its_width() -> None:
    message = raw_request("identity", [("IN", "INT8", (1, 2))], [])
    message.inputs[0].contents.int_contents.extend([300, -1])
    assert read(spec_of(DataType.INT8), message).inputs["IN"].tolist() == [[44, -1]]
    message = raw_request("identity", [("IN", "UINT16", (1, 1))], [])
    message.inputs[0].contents.uint_contents.extend([70_000])
    assert read(spec_of(DataType.UINT16), message).inputs["IN"].tolist() == [[4464]]


def test_raw_tensors_lie_in_the_message_itself() -> None:
    payload = raw_request("identity", [("IN", "FP32", (1, 150_528))], [bytes(602_112)], id="x").SerializeToString()
    found = read(spec_of(DataType.FP32), payload).inputs["IN"]
    assert found.base is payload
    assert not found.flags.owndata


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.float32).reshape(3, 4).T,
        np.arange(8, dtype=np.float32)[::2],
        np.zeros((1, 0), np.float32),
        np.array(3.0, np.float32),
        np.array([[b"a", b""], [b"ccc", b"d"]], np.object_).T,
        np.array(["ab", "ü"]),
        np.array([b"ab", b"c"]),
        np.zeros(3, ml_dtypes.bfloat16)[::2],
    ],
    ids=["transposed", "strided", "empty", "scalar", "objects", "strings", "numpy bytes", "bf16 strided"],
)
def test_outputs_may_lie_in_memory_in_any_way(array: Tensor) -> None:
    request = read(spec_of(DataType.FP32), raw_request("identity"))
    parsed = pb.ModelInferResponse.FromString(infer_response(request, InferResponse({"OUT": array})))
    found = InferResult(parsed).as_numpy("OUT")
    assert list(parsed.outputs[0].shape) == list(array.shape)
    wanted = array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array
    if array.dtype.kind in "US":
        assert found.tolist() == [each if isinstance(each, bytes) else each.encode() for each in array.tolist()]
    else:
        np.testing.assert_array_equal(found, wanted)
