"""ModelInferRequest's bytes cut at their top level, so that tensors' data is never copied by a protobuf parser.

What varies from call to call (id, parameters, raw contents) is cut out; the rest, the head, is mostly the same bytes
again and can be remembered. Wire format: https://protobuf.dev/programming-guides/encoding/
"""

from typing import NamedTuple

from tritonclient.grpc import service_pb2 as pb

from nextact_server.rpc.decode import parse

__all__ = ["Cut", "cut", "length_prefix"]

ID, PARAMETERS, RAW = 0x1A, 0x22, 0x3A
"""Tags of the length-delimited fields `id`, `parameters` and `raw_input_contents`."""
HEAD_TAGS = frozenset((0x0A, 0x12, 0x2A, 0x32))
"""model_name, model_version, inputs, outputs."""
MAX_LENGTH_BITS = 35
"""A message has less than 2 GiB, so its lengths have at most 5 bytes of 7 bits."""


class Cut(NamedTuple):
    """A request in parts. `raw` holds (start, stop) within `payload`.

    `id` is the whole field with its tag, as it stands in responses too; `parameters` are whole fields, `head` all else.
    """

    payload: bytes
    head: bytes
    id: bytes
    parameters: bytes
    raw: list[tuple[int, int]]


def cut(payload: bytes) -> Cut:
    """The parts of a serialized ModelInferRequest. Raises CallError INVALID_ARGUMENT for broken bytes."""
    found = _scan(payload)
    if found is None:
        # Fields that are not known, or bytes that are broken: protobuf tells which, and drops the former.
        request = parse(pb.ModelInferRequest, payload)
        request.DiscardUnknownFields()
        found = _scan(request.SerializeToString())
        assert found is not None
    return found


def length_prefix(tag: int, length: int) -> bytes:
    """What stands before a length-delimited field's bytes."""
    if length < 0x80:
        return bytes((tag, length))
    prefix = bytearray((tag,))
    while length >= 0x80:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes(prefix)


def _scan(payload: bytes) -> Cut | None:
    """None for anything but the message's own fields, whole. The loop runs once per field, never per element."""
    raw: list[tuple[int, int]] = []
    head: list[bytes] = []
    parameters = id_field = b""
    at = kept = 0
    end = len(payload)
    while at < end:
        tag = payload[at]
        start, stop = _field(payload, at + 1, end)
        if stop > end:
            return None
        if tag not in HEAD_TAGS:
            if tag == RAW:
                raw.append((start, stop))
            elif tag == ID:
                id_field = payload[at:stop]
            elif tag == PARAMETERS:
                parameters += payload[at:stop]
            else:
                return None
            if at > kept:
                head.append(payload[kept:at])
            kept = stop
        at = stop
    if end > kept:
        head.append(payload[kept:end])
    return Cut(payload, head[0] if len(head) == 1 else b"".join(head), id_field, parameters, raw)


def _field(payload: bytes, at: int, end: int) -> tuple[int, int]:
    """Start and stop of the bytes whose length stands at `at`; a stop beyond the end where it is broken."""
    length = shift = 0
    while at < end:
        byte = payload[at]
        at += 1
        if byte < 0x80:
            length |= byte << shift
            return at, at + length
        length |= (byte & 0x7F) << shift
        shift += 7
        if shift > MAX_LENGTH_BITS:
            break
    return at, end + 1
