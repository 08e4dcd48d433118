"""The classification extension: an output's best classes as strings instead of its tensor.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_classification.md
"""

from collections.abc import Sequence

import numpy as np

from nextact_server.inference.infer_errors import invalid_argument
from nextact_server.inference.tensors import DataType, Tensor, datatype_of

__all__ = ["best_classes"]

_RANKED = frozenset(DataType) - {DataType.BOOL, DataType.BYTES, DataType.FP16, DataType.BF16}


def best_classes(output: Tensor, wanted: int, labels: Sequence[str], *, batched: bool) -> Tensor:
    """'value:index:label' of the `wanted` highest values, best first: object[batch, n], or [n] where not `batched`.

    All axes behind the batch count as classes; equal values keep their order, and NaN comes last. A class beyond the
    labels has none.

    Raises:
        InferError: for values without an order: BOOL and BYTES, and, as in Triton, half precision.
    """
    datatype = datatype_of(output)
    if datatype not in _RANKED:
        raise invalid_argument(f"class result not available for output due to unsupported type '{datatype.value}'")
    count = output.shape[0] if batched else 1
    rows = output.reshape(count, output.size // count if count else 0)
    wanted = min(wanted, rows.shape[1])
    form = "{:.6f}" if datatype in (DataType.FP32, DataType.FP64) else "{}"
    classes = np.empty((len(rows), wanted), np.object_)
    for row, values in enumerate(rows):
        best = _descending(values)[:wanted].tolist()
        for place, (index, value) in enumerate(zip(best, values[best].tolist(), strict=True)):
            label = f":{labels[index]}" if index < len(labels) else ""
            classes[row, place] = f"{form.format(value)}:{index}{label}".encode()
    return classes if batched else classes[0]


def _descending(values: Tensor) -> Tensor:
    if values.dtype.kind == "f":
        return np.argsort(-values, kind="stable")
    # Integers cannot be negated without overflow: sorted backwards twice they keep the order of equals.
    return len(values) - 1 - np.argsort(values[::-1], kind="stable")[::-1]
