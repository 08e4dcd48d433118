"""Cutting a request's bytes gives what protobuf finds in them, and nothing breaks it."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from infer_fakes import model_spec, raw_request, read
from tritonclient.grpc import service_pb2 as pb

from nextact_server.inference.infer_errors import InferError
from nextact_server.rpc.errors import CallError
from nextact_server.rpc.kserve.wire import Cut, cut, length_prefix

names = st.text(max_size=200)
contents = st.binary(max_size=300)


@st.composite
def messages(draw: st.DrawFn) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name=draw(names), model_version=draw(names), id=draw(names))
    for name in draw(st.lists(names, max_size=3)):
        message.parameters[name].string_param = draw(names)
    for name in draw(st.lists(names, max_size=3)):
        tensor = message.inputs.add(name=name, datatype="FP32", shape=draw(st.lists(st.integers(-3, 300), max_size=4)))
        if draw(st.booleans()):
            tensor.contents.fp32_contents.extend(draw(st.lists(st.floats(width=32), max_size=50)))
    for name in draw(st.lists(names, max_size=3)):
        message.outputs.add(name=name).parameters["classification"].int64_param = 3
    message.raw_input_contents.extend(draw(st.lists(contents, max_size=4)))
    return message


def rejoined(parts: Cut) -> pb.ModelInferRequest:
    """What the parts say together."""
    whole = pb.ModelInferRequest.FromString(parts.head)
    whole.MergeFromString(parts.id)
    whole.MergeFromString(parts.parameters)
    whole.raw_input_contents.extend(parts.payload[start:stop] for start, stop in parts.raw)
    return whole


@given(messages())
def test_the_parts_say_what_the_whole_says(message: pb.ModelInferRequest) -> None:
    payload = message.SerializeToString()
    assert rejoined(cut(payload)) == pb.ModelInferRequest.FromString(payload)


@given(messages(), messages())
def test_fields_may_come_in_any_order_and_again(first: pb.ModelInferRequest, second: pb.ModelInferRequest) -> None:
    payload = first.SerializeToString() + second.SerializeToString()
    assert rejoined(cut(payload)) == pb.ModelInferRequest.FromString(payload)


@given(messages(), st.binary(min_size=1, max_size=20))
def test_unknown_fields_are_passed_over(message: pb.ModelInferRequest, unknown: bytes) -> None:
    field = b"\xfa\x01" + length_prefix(0, len(unknown))[1:] + unknown  # number 31
    parts = cut(field + message.SerializeToString() + field)
    assert rejoined(parts) == message
    assert unknown not in parts.head or unknown in message.SerializeToString()


@settings(max_examples=500)
@given(st.binary(max_size=200))
def test_broken_bytes_are_told_as_such(payload: bytes) -> None:
    with pytest.raises((CallError, InferError)):
        read(model_spec(), payload)


@settings(max_examples=500)
@given(st.data())
def test_a_message_with_a_few_bytes_changed_is_read_or_refused(data: st.DataObject) -> None:
    message = raw_request(id="r1", parameters={"priority": ("int64_param", 3), "x": ("string_param", "y")})
    message.outputs.add(name="OUT").parameters["classification"].int64_param = 2
    payload = bytearray(message.SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(CallError, InferError):
        read(model_spec(), bytes(payload))


@pytest.mark.parametrize("length", [0, 1, 127, 128, 16_383, 16_384, 2**21, 2**28, 2**31 - 1])
def test_lengths_are_written_as_protobuf_reads_them(length: int) -> None:
    prefix = length_prefix(0x1A, length)
    message = pb.ModelInferRequest()
    if length <= 16_384:
        message.ParseFromString(prefix + b"x" * length)
        assert len(message.id) == length
    assert prefix[0] == 0x1A
    assert sum((byte & 0x7F) << 7 * place for place, byte in enumerate(prefix[1:])) == length
    assert all(byte & 0x80 for byte in prefix[1:-1])
    assert not prefix[-1] & 0x80
