"""Models on the CPU: OpenVINO at f32, converted from a torch module once and kept on disk."""

import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nextact_server.inference.cores import CoreBudget
from nextact_server.inference.ir_cache import IrCache
from nextact_server.inference.runtime import LinearHead

if TYPE_CHECKING:
    import torch

__all__ = ["OpenVinoRuntime", "TorchSource", "convert_torch", "load_openvino"]

MODEL_FILE = "model.xml"

TorchSource = Callable[[], "tuple[torch.nn.Module, tuple[torch.Tensor, ...]]"]
"""Builds a module in evaluation mode and example inputs; called only when the module is needed."""


class OpenVinoRuntime:
    """A compiled OpenVINO model with one stream of `threads` threads.

    One stream, because batching already fills the cores: splitting them over streams only makes each batch slower. The
    batch axis stays dynamic and nothing is padded: measured on this runtime, a batch of 5 costs five eighths of a batch
    of 8, and an unpadded one within 5-10 % of a model compiled for exactly that size. Precision is f32 even where the
    CPU has bf16 units, so that a batch gives what its items give alone.
    """

    def __init__(
        self, model: Path, *, threads: int, cores: CoreBudget | None = None, head: LinearHead | None = None
    ) -> None:
        """Read and compile an IR (`.xml` beside its `.bin`). `cores`: waits for this budget around every run."""
        import openvino

        self._threads = threads
        self._cores = cores
        properties = {
            "INFERENCE_PRECISION_HINT": "f32",
            "EXECUTION_MODE_HINT": "ACCURACY",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            # Pinned threads cannot give way to the server's own, which the scheduler may have put on the same core.
            "ENABLE_CPU_PINNING": False,
        }
        core = openvino.Core()
        network = core.read_model(str(model))
        if head is not None:
            network = _with_head(network, head)
        compiled = core.compile_model(network, "CPU", properties)
        self._request: Any = compiled.create_infer_request()
        self._lock = threading.Lock()

    @property
    def device(self) -> str:
        """`cpu`."""
        return "cpu"

    def run(self, *inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Compute a batch; arrays must be C-contiguous to be taken without a copy. One batch at a time."""
        with self._lock:
            if self._cores is None:
                return self._infer(inputs)
            with self._cores.use(self._threads):
                return self._infer(inputs)

    def close(self) -> None:
        """Drop the compiled model."""
        with self._lock:
            self._request = None

    def _infer(self, inputs: Sequence[npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        if self._request is None:
            raise RuntimeError("this model was closed")
        self._request.infer(list(inputs), share_inputs=True)
        output: npt.NDArray[np.float32] = self._request.get_output_tensor().data.copy()
        return output


def convert_torch(source: TorchSource, target: Path) -> None:
    """Trace a module and write it as an f32 IR into the directory `target`. All axes but the last of each are dynamic.

    Where an example input has more than two axes, only the batch is: images have one size.
    """
    import openvino

    module, example = source()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of its own deprecation and of every Python branch in the module
        model = openvino.convert_model(module, example_input=example)
    for port, tensor in zip(model.inputs, example, strict=True):
        port.get_node().set_partial_shape(openvino.PartialShape(_dynamic(tuple(tensor.shape))))
    model.validate_nodes_and_infer_types()
    openvino.save_model(model, str(target / MODEL_FILE), compress_to_fp16=False)


def load_openvino(
    name: str,
    key: str,
    source: TorchSource,
    cache: IrCache,
    *,
    threads: int,
    cores: CoreBudget | None = None,
    head: LinearHead | None = None,
) -> OpenVinoRuntime:
    """Return the runtime of a model, converting it if `cache` has no whole entry for it under `key`.

    The version of OpenVINO is added to the key. Neither torch nor the module's library is imported for a cached model.
    """
    import openvino

    release = openvino.get_version().split("-")[0]
    entry = cache.get(name, f"{key}-ov{release}", lambda target: convert_torch(source, target))
    return OpenVinoRuntime(entry / MODEL_FILE, threads=threads, cores=cores, head=head)


def _with_head(network: Any, head: LinearHead) -> Any:
    import openvino
    from openvino import opset13 as ops

    features = network.output(0).get_node().input_value(0)  # what the result node was given
    product = ops.matmul(features, ops.constant(head.weight), transpose_a=False, transpose_b=True)
    unit = ops.normalize_l2(ops.add(product, ops.constant(head.bias)), np.array([1]), eps=1e-12, eps_mode="max")
    return openvino.Model([unit], network.get_parameters(), "with_head")


def _dynamic(shape: tuple[int, ...]) -> list[int]:
    return [-1, -1] if len(shape) == 2 else [-1, *shape[1:]]
