"""Responses of models by the content of their requests, bounded in bytes."""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from nextact_server.inference.infer_request import InferRequest, InferResponse, Parameter
from nextact_server.inference.infer_spec import ModelSpec
from nextact_server.inference.tensors import Tensor, datatype_of, encode_bytes

__all__ = ["CacheCounts", "ResponseCache", "cache_key"]

_KEY_BYTES = 16
_ENTRY_BYTES = 512  # what Python's own objects of an entry take, roughly
_TENSOR_BYTES = 256
_TEXT_BYTES = 41  # a pointer and the header of a bytes object


@dataclass(frozen=True, slots=True)
class CacheCounts:
    """What a cache holds and did. `evicted` made room for others; `refused` alone were larger than the whole cache."""

    entries: int
    bytes: int
    hits: int
    misses: int
    evicted: int
    refused: int


class ResponseCache:
    """The least recently used responses leave when there are more than `max_bytes`. Any thread.

    Responses are kept as copies that nothing can write to, so that they hold no batch alive and every hit is equal.
    """

    def __init__(self, max_bytes: int) -> None:
        if max_bytes <= 0:
            raise ValueError(f"a response cache needs room: its size is {max_bytes} bytes, and must be above 0")
        self.max_bytes = max_bytes
        self._entries: OrderedDict[bytes, tuple[InferResponse, int]] = OrderedDict()
        self._lock = threading.Lock()
        self._bytes = self._hits = self._misses = self._evicted = self._refused = 0

    def get(self, key: bytes) -> InferResponse | None:
        """The response of a key, its arrays read-only; None where there is none."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                self._misses += 1
                return None
            self._hits += 1
            self._entries.move_to_end(key)
            kept = entry[0]
        return InferResponse(dict(kept.outputs), kept.parameters)

    def put(self, key: bytes, response: InferResponse) -> None:
        """Keep a copy of a response, if it is not larger than the cache."""
        size = _ENTRY_BYTES + sum(_size(array) for array in response.outputs.values())
        if size > self.max_bytes:
            with self._lock:
                self._refused += 1
            return
        copy = InferResponse(
            {name: _kept(array) for name, array in response.outputs.items()}, dict(response.parameters)
        )
        with self._lock:
            replaced = self._entries.pop(key, None)
            if replaced is not None:
                self._bytes -= replaced[1]
            self._entries[key] = (copy, size)
            self._bytes += size
            while self._bytes > self.max_bytes:
                _, (_, freed) = self._entries.popitem(last=False)
                self._bytes -= freed
                self._evicted += 1

    def counts(self) -> CacheCounts:
        """What it holds and did until now."""
        with self._lock:
            return CacheCounts(len(self._entries), self._bytes, self._hits, self._misses, self._evicted, self._refused)


def cache_key(spec: ModelSpec, request: InferRequest) -> bytes:
    """128 bits over all that a model's answer may depend on.

    Those are the model, its version, every input's name, datatype, shape and content, the outputs asked for, and the
    request's parameters. Neither its id nor its place in a queue counts. Triton's key leaves out shapes and
    parameters, so that it answers [[9], [2]] with what it kept for [[9, 2]].
    """
    digest = blake2b(digest_size=_KEY_BYTES)
    update = digest.update
    outputs = sorted(set(request.output_names)) or sorted(tensor.name for tensor in spec.outputs)
    inputs = request.inputs
    head = [
        (name, datatype_of(array).value, array.shape)
        for name, array in sorted(inputs.items(), key=lambda item: item[0])
    ]
    update(repr((spec.name, spec.version, outputs, head, _listed(request.parameters))).encode())
    for name, _, _ in head:
        array = inputs[name]
        if array.dtype == np.object_ or array.dtype.kind in "SU":
            content = encode_bytes(array)  # with lengths: "ab", "c" is not "a", "bc"
            update(len(content).to_bytes(8))
            update(content)
        else:
            # By way of uint8: BF16 has no buffer of its own.
            update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.digest()


def _listed(parameters: Mapping[str, Parameter]) -> list[tuple[str, str, Parameter]]:
    return sorted((name, type(value).__name__, value) for name, value in parameters.items())


def _size(array: Tensor) -> int:
    if array.dtype == np.object_:
        return _TENSOR_BYTES + sum(len(text) + _TEXT_BYTES for text in array.reshape(-1))
    return _TENSOR_BYTES + array.nbytes


def _kept(array: Tensor) -> Tensor:
    copy = np.array(array, copy=True, order="C")
    copy.flags.writeable = False
    return copy
