"""Inputs for tritonclient, sync or aio: both take the same."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient
from tritonclient.utils import np_to_triton_dtype


def tensor(name: str, array: np.ndarray, datatype: str = "") -> grpcclient.InferInput:
    """An input from an array."""
    made = grpcclient.InferInput(name, list(array.shape), datatype or np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array)
    return made


def words(*values: str | bytes) -> np.ndarray:
    """A BYTES column: one value a row."""
    encoded = [value.encode() if isinstance(value, str) else value for value in values]
    return np.array(encoded, np.object_).reshape(-1, 1)


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    """Numbers float32 of a shape."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def event_inputs(columns: Mapping[str, Any]) -> list[grpcclient.InferInput]:
    """Inputs of next_action: a list of values a column, a row an event."""
    inputs = []
    for name, values in columns.items():
        is_time = name == "event_time_us"
        array = np.array(values, np.int64).reshape(-1, 1) if is_time else words(*values)
        inputs.append(tensor(name, array))
    return inputs
