"""The first values of a sequence model's implicit states."""

from pathlib import Path

import numpy as np

from nextact_server.inference.infer_errors import internal, invalid_argument
from nextact_server.inference.tensors import BytesError, DataType, Tensor, decode_bytes
from nextact_server.repository.config import ModelConfig
from nextact_server.repository.spec import data_type

__all__ = ["INITIAL_STATE_DIR", "initial_states", "read_tensor"]

INITIAL_STATE_DIR = "initial_state"


def initial_states(config: ModelConfig, model_dir: Path) -> dict[str, Tensor]:
    """Initial tensors by `input_name`, without a batch axis, of the states that have an `initial_state`.

    A `data_file` is read from the model's directory `initial_state`: raw values, little endian; BYTES behind lengths.

    Raises:
        InferError: a file that cannot be read, or that does not have the size of its dims.
    """
    found = {}
    for state in config.sequence_batching.state:
        for initial in state.initial_state:
            shape, datatype = tuple(initial.dims), data_type(initial)
            if initial.WhichOneof("state_data") == "data_file":
                path = model_dir / INITIAL_STATE_DIR / initial.data_file
                found[state.input_name] = read_tensor(path, datatype, shape, "initial_state")
            else:
                found[state.input_name] = zeros(datatype, shape)
    return found


def zeros(datatype: DataType, shape: tuple[int, ...]) -> Tensor:
    """A tensor of zeros; of empty strings for BYTES."""
    return np.full(shape, b"" if datatype is DataType.BYTES else 0, datatype.numpy)


def read_tensor(path: Path, datatype: DataType, shape: tuple[int, ...], what: str) -> Tensor:
    """A tensor from a file of its raw values. `what` names the setting in messages.

    Raises:
        InferError: INTERNAL, no such file; INVALID_ARG, of another size.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise internal(f"failed to open text file for read {path}: {error.strerror}") from error
    count = int(np.prod(shape, dtype=np.int64))
    if datatype is DataType.BYTES:
        try:
            return decode_bytes(data, count).reshape(shape)
        except BytesError as error:
            raise invalid_argument(f"{what} setting expects {count} elements, but {path.name} {error}") from error
    expected = count * datatype.itemsize
    if len(data) != expected:
        raise invalid_argument(
            f"{what} setting expects {expected} bytes, but the data provided from {path.name} has {len(data)} bytes"
        )
    little = datatype.numpy.newbyteorder("<") if datatype is not DataType.BF16 else datatype.numpy
    return np.frombuffer(data, little).astype(datatype.numpy).reshape(shape)
