"""The `onnxruntime` backend: ONNX models (`model.onnx`) through ONNX Runtime, which is an extra of this package.

`pip install nextact-server[onnx]` brings it for the CPU; for CUDA put `onnxruntime-gpu` in its place.
"""

import importlib
import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nextact_server.inference.batched_instance import BatchedInstance
from nextact_server.inference.infer_errors import internal, invalid_argument, unavailable
from nextact_server.inference.infer_spec import ModelSpec, Placement, SequenceBatching
from nextact_server.inference.instance import ModelInstance, Scheduler
from nextact_server.inference.tensors import DataType, Tensor
from nextact_server.repository.backend import ModelContext
from nextact_server.repository.backends.tensor_io import TensorIO, complete_io
from nextact_server.repository.config import ModelConfig

__all__ = ["OnnxRuntimeBackend"]

logger = logging.getLogger(__name__)

DEFAULT_FILE = "model.onnx"
VARIABLE = -1
_DATATYPES = {
    "tensor(bool)": DataType.BOOL,
    "tensor(uint8)": DataType.UINT8,
    "tensor(uint16)": DataType.UINT16,
    "tensor(uint32)": DataType.UINT32,
    "tensor(uint64)": DataType.UINT64,
    "tensor(int8)": DataType.INT8,
    "tensor(int16)": DataType.INT16,
    "tensor(int32)": DataType.INT32,
    "tensor(int64)": DataType.INT64,
    "tensor(float16)": DataType.FP16,
    "tensor(float)": DataType.FP32,
    "tensor(double)": DataType.FP64,
    "tensor(string)": DataType.BYTES,
}
# Triton's parameters and the session options they set; those of the memory arenas and of profiling are not offered.
_COUNTS = {"intra_op_thread_count": "intra_op_num_threads", "inter_op_thread_count": "inter_op_num_threads"}


class OnnxRuntimeBackend:
    """See `Backend`. `default_max_batch_size` is for models whose configuration leaves everything out.

    `threads` are the threads that one session computes with, where a model's `intra_op_thread_count` does not say; 0
    leaves it to ONNX Runtime, which then takes every core.
    """

    def __init__(self, default_max_batch_size: int = 4, threads: int = 0) -> None:
        self._default_max_batch_size = default_max_batch_size
        self._threads = threads

    def complete(self, config: ModelConfig, version_dir: Path) -> ModelConfig:
        """Read inputs, outputs and batching from the model where they are left out. Raises InferError with why not."""
        if config.input and config.output:
            return config
        path = _model_file(version_dir, config)
        session = _session(config, path, "cpu", self._threads)
        inputs = [_tensor_io(config.name, "input", node) for node in session.get_inputs()]
        outputs = [_tensor_io(config.name, "output", node) for node in session.get_outputs()]
        return complete_io(config, inputs, outputs, self._default_max_batch_size)

    def load(self, context: ModelContext) -> "LoadedOnnxModel":
        """Take the model's file; instances read it. Raises InferError with the reason."""
        onnxruntime(context.spec.name)
        return LoadedOnnxModel(context, self._threads)


class LoadedOnnxModel:
    """A version; instances on one device share its session, which may run in several threads at once."""

    def __init__(self, context: ModelContext, threads: int) -> None:
        self._spec = context.spec
        self._config = context.config
        self._threads = threads
        self._path = _model_file(context.version_dir, context.config)
        self._sessions: dict[str, Any] = {}
        self._lock = threading.Lock()

    def instance(self, placement: Placement) -> ModelInstance:
        """One instance. Raises InferError where the model cannot be loaded or is not what the configuration says."""
        with self._lock:
            session = self._sessions.get(placement.device)
            if session is None:
                session = _session(self._config, self._path, placement.device, self._threads)
                _check(self._spec, session)
                self._sessions[placement.device] = session
        return BatchedInstance(self._spec, OnnxRunner(session, self._spec).run)

    def scheduler(self) -> Scheduler | None:
        """By the configuration."""
        return None

    def close(self) -> None:
        """Let go of the sessions."""
        self._sessions.clear()


class OnnxRunner:
    """Arrays in, arrays out. Numbers are passed without a copy; texts become `str` and back, as UTF-8."""

    def __init__(self, session: Any, spec: ModelSpec) -> None:
        self._session = session
        states = spec.schedule.states if isinstance(spec.schedule, SequenceBatching) else ()
        self._outputs = [tensor.name for tensor in spec.outputs] + [state.output_name for state in states]
        # Where a model does not batch, a configuration has no word for a scalar but one element.
        scalars = [node.name for node in session.get_inputs() if not node.shape]
        self._scalars = () if spec.max_batch_size else tuple(scalars)

    def run(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute one batch. Raises InferError: INTERNAL for what ONNX Runtime raises."""
        feeds = {name: _texts(name, array) if array.dtype == np.object_ else array for name, array in inputs.items()}
        for name in self._scalars:
            feeds[name] = feeds[name].reshape(())
        try:
            arrays = self._session.run(self._outputs, feeds)
        except Exception as error:
            raise internal(f"onnx runtime error: {error}") from error
        return {
            name: _as_bytes(array) if array.dtype == np.object_ else array
            for name, array in zip(self._outputs, map(np.asarray, arrays), strict=True)
        }


def onnxruntime(model: str) -> Any:
    """The library, imported with the first model.

    Raises:
        InferError: it is not installed.
    """
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise unavailable(
            f"unable to load model '{model}': ONNX Runtime is not installed; install it with "
            f"pip install 'nextact-server[onnx]' ({error})"
        ) from error


def _session(config: ModelConfig, path: Path, device: str, threads: int) -> Any:
    library = onnxruntime(config.name)
    options = library.SessionOptions()
    options.log_severity_level = 3  # what it warns of is about the graph, not for whoever runs the server
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    for name, attribute in _COUNTS.items():
        if name in config.parameters:
            setattr(options, attribute, _count(config, name))
    providers: list[Any] = ["CPUExecutionProvider"]
    if device != "cpu":
        if "CUDAExecutionProvider" not in library.get_available_providers():
            raise unavailable(
                f"unable to load model '{config.name}' on {device}: this ONNX Runtime has no CUDA; install "
                "onnxruntime-gpu in its place"
            )
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.removeprefix("cuda:")}))
    try:
        return library.InferenceSession(str(path), options, providers=providers)
    except Exception as error:
        raise internal(f"failed to load model '{config.name}': {path}: {error}") from error


def _count(config: ModelConfig, name: str) -> int:
    value = str(config.parameters[name].string_value)
    if not value.isdigit():
        raise invalid_argument(f"model '{config.name}': parameter {name} is '{value}', and must be 0 or more")
    return int(value)


def _model_file(version_dir: Path, config: ModelConfig) -> Path:
    """`default_model_filename`, else model.onnx; where that is a directory, the model.onnx in it, as Triton has it."""
    path = version_dir / (str(config.default_model_filename) or DEFAULT_FILE)
    if path.is_dir():
        path = path / DEFAULT_FILE
    if not path.is_file():
        raise unavailable(f"unable to find '{path}' for model instance '{config.name}'")
    return path


def _tensor_io(model: str, kind: str, node: Any) -> TensorIO:
    datatype = _DATATYPES.get(node.type)
    if datatype is None:
        raise invalid_argument(f"unsupported datatype {node.type} for {kind} '{node.name}' for model '{model}'")
    return TensorIO(node.name, datatype, _shape(node))


def _shape(node: Any) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) and size >= 0 else VARIABLE for size in node.shape)


def _check(spec: ModelSpec, session: Any) -> None:
    """Names, datatypes and shapes of the configuration against the model's."""
    inputs = {node.name: node for node in session.get_inputs()}
    outputs = {node.name: node for node in session.get_outputs()}
    _check_names(spec, inputs)
    batch = (VARIABLE,) if spec.max_batch_size else ()
    for kind, nodes, tensors in (("input", inputs, spec.inputs), ("output", outputs, spec.outputs)):
        for tensor in tensors:
            node = nodes.get(tensor.name)
            if node is None:
                raise invalid_argument(
                    f"unexpected inference {kind} '{tensor.name}', allowed {kind}s are: {', '.join(nodes)}"
                )
            provided = _tensor_io(spec.name, kind, node).datatype
            if provided is not tensor.datatype:
                raise invalid_argument(
                    f"unable to load model '{spec.name}', configuration expects datatype {tensor.datatype.config_name} "
                    f"for {kind} '{tensor.name}', model provides {provided.config_name}"
                )
            dims = batch + (tensor.dims if tensor.reshape is None else tensor.reshape)
            if tensor.ragged and spec.batch_inputs:
                continue
            is_scalar = not node.shape and dims == (1,)
            if not is_scalar and not _fits(dims, _shape(node)):
                raise invalid_argument(
                    f"model '{spec.name}', tensor '{tensor.name}': the model expects {len(node.shape)} dimensions "
                    f"(shape {_listed(_shape(node))}) but the model configuration specifies {len(dims)} dimensions "
                    f"(shape {_listed(dims)})"
                )


def _check_names(spec: ModelSpec, inputs: Mapping[str, Any]) -> None:
    expected = len(spec.inputs) + sum(len(one.names) for one in spec.batch_inputs)
    if isinstance(spec.schedule, SequenceBatching):
        expected += len(spec.schedule.controls) + len(spec.schedule.states)
    if expected != len(inputs) and not any(tensor.optional for tensor in spec.inputs):
        raise invalid_argument(
            f"unable to load model '{spec.name}', configuration expects {expected} inputs, model provides {len(inputs)}"
        )


def _fits(dims: Sequence[int], shape: Sequence[int]) -> bool:
    return len(dims) == len(shape) and all(
        VARIABLE in (wanted, size) or wanted == size for wanted, size in zip(dims, shape, strict=True)
    )


def _listed(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _texts(name: str, array: Tensor) -> Tensor:
    """ONNX Runtime's Python interface takes text only, so bytes that are no UTF-8 cannot be passed."""
    texts = np.empty(array.size, np.object_)
    try:
        texts[:] = [one.decode() if isinstance(one, bytes) else str(one) for one in array.reshape(-1)]
    except UnicodeDecodeError as error:
        raise invalid_argument(f"input '{name}' holds a string that is not UTF-8: {error}") from None
    return texts.reshape(array.shape)


def _as_bytes(array: Tensor) -> Tensor:
    encoded = np.empty(array.size, np.object_)
    encoded[:] = [text.encode() for text in array.reshape(-1)]
    return encoded.reshape(array.shape)
