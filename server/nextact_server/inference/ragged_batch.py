"""Requests of different lengths in one batch: `allow_ragged_batch`.

Where the model declares no `batch_input`, its variable dimensions are padded with zeros (BYTES: empty strings) to the
longest of the batch, and outputs are cut back to each request's own length. Where it does, it is a model made for
Triton's ragged batches: it gets all elements in one flat tensor and the batch inputs that say whose they are
(https://github.com/triton-inference-server/server/blob/main/docs/user_guide/ragged_batching.md).
"""

from collections.abc import Sequence

import numpy as np

from nextact_server.inference.infer_request import InferRequest
from nextact_server.inference.infer_spec import BatchInput, ModelSpec
from nextact_server.inference.tensors import Tensor

__all__ = ["Lengths", "batch_inputs", "flat", "padded", "padded_lengths"]

VARIABLE = -1
Lengths = dict[int, list[int]]
"""Per axis (the batch axis not counted) the length of each request, where a batch was padded along it."""


def padded(arrays: Sequence[Tensor]) -> Tensor:
    """One batch of arrays [rows, ...] whose other axes differ in length, filled up with zeros."""
    shapes = np.array([array.shape for array in arrays])
    if (shapes[:, 1:] == shapes[0, 1:]).all():
        return np.concatenate(arrays)
    shape = (int(shapes[:, 0].sum()), *shapes[:, 1:].max(axis=0).tolist())
    filling = b"" if arrays[0].dtype == np.object_ else 0
    batch = np.full(shape, filling, arrays[0].dtype)
    start = 0
    for array in arrays:
        end = start + array.shape[0]
        batch[(slice(start, end), *map(slice, array.shape[1:]))] = array
        start = end
    return batch


def padded_lengths(spec: ModelSpec, requests: Sequence[InferRequest]) -> Lengths:
    """Along which axes outputs may be cut back, and to what.

    Only where it is plain whose length an axis is: every input that varies along it is ragged, is not reshaped, and has
    the same lengths. An output is cut along such an axis if it varies there too and came out as long as the padding.
    """
    found: Lengths = {}
    unclear: set[int] = set()
    for tensor in spec.inputs:
        arrays = [request.inputs[tensor.name] for request in requests if tensor.name in request.inputs]
        if not arrays:
            continue
        for axis, dim in enumerate(tensor.dims):
            if dim != VARIABLE:
                continue
            lengths = [array.shape[1 + axis] for array in arrays]
            if not tensor.ragged or tensor.reshape is not None or found.setdefault(axis, lengths) != lengths:
                unclear.add(axis)
    return {axis: sizes for axis, sizes in found.items() if axis not in unclear and min(sizes) < max(sizes)}


def flat(arrays: Sequence[Tensor]) -> Tensor:
    """All elements of all requests, one after the other."""
    return np.concatenate([array.reshape(-1) for array in arrays])


def batch_inputs(wanted: Sequence[BatchInput], requests: Sequence[InferRequest]) -> dict[str, Tensor]:
    """The inputs that a ragged batch says of itself, as ModelConfig.BatchInput.Kind defines them."""
    made: dict[str, Tensor] = {}
    for one in wanted:
        sources = [request.inputs[one.source_inputs[0]] for request in requests]
        values = _of_kind(one.kind, sources).astype(one.datatype.numpy)
        made.update(dict.fromkeys(one.names, values))
    return made


def _of_kind(kind: str, sources: Sequence[Tensor]) -> Tensor:
    counts = np.array([source.size for source in sources])
    match kind:
        case "BATCH_ELEMENT_COUNT":
            return counts
        case "BATCH_ACCUMULATED_ELEMENT_COUNT":
            return np.cumsum(counts)
        case "BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO":
            return np.concatenate([[0], np.cumsum(counts)])
        case "BATCH_MAX_ELEMENT_COUNT_AS_SHAPE":
            return np.zeros(counts.max())
        case "BATCH_ITEM_SHAPE" | "BATCH_ITEM_SHAPE_FLATTEN":
            shapes = np.concatenate(
                [np.tile(np.array(source.shape[1:], np.int64), (source.shape[0], 1)) for source in sources]
            )
            return shapes if kind == "BATCH_ITEM_SHAPE" else shapes.reshape(-1)
    raise ValueError(f"no batch input is of kind {kind}")
