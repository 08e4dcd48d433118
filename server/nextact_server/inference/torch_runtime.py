"""Models on CUDA: torch, padded batch buckets, pinned staging and a stream of its own per instance."""

import threading
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from nextact_server.inference.runtime import LinearHead

__all__ = ["DEFAULT_BUCKETS", "TorchRuntime"]

DEFAULT_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class TorchRuntime:
    """A torch module on one device.

    A batch is padded with zero rows to the next of `buckets` (larger ones run as several), and the second axis of
    two-dimensional inputs to a multiple of `length_step`, so that the device meets few shapes and its allocator and
    kernel caches stay warm. On CUDA inputs go through pinned buffers with non-blocking copies on the instance's own
    stream, so that instances overlap. Computation is f32 unless `half` asks for float16; TF32 is never used.

    On the CPU the same code runs without pinning or streams: that is how its padding is tested.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        *,
        device: str = "cuda",
        half: bool = False,
        buckets: Sequence[int] = DEFAULT_BUCKETS,
        length_step: int = 16,
        head: LinearHead | None = None,
    ) -> None:
        if not buckets or sorted(set(buckets)) != list(buckets) or buckets[0] < 1:
            raise ValueError(f"buckets must rise from 1 or more, not {tuple(buckets)}")
        self._device = torch.device(device)
        self._cuda = self._device.type == "cuda"
        if half and not self._cuda:
            raise ValueError("half precision is for CUDA; on the CPU set it off")
        self._module = (module if head is None else _Headed(module, head)).eval().to(self._device)
        self._autocast = torch.autocast("cuda", dtype=torch.float16, enabled=half) if self._cuda else None
        self._buckets = tuple(buckets)
        self._length_step = length_step
        self._stream = torch.cuda.Stream(self._device) if self._cuda else None  # type: ignore[no-untyped-call]
        self._staging: dict[int, torch.Tensor] = {}
        self._lock = threading.Lock()

    @property
    def device(self) -> str:
        """The torch name of the device."""
        return str(self._device)

    def run(self, *inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Compute a batch of any size; rows added as padding are never returned."""
        rows, largest = len(inputs[0]), self._buckets[-1]
        with self._lock, torch.inference_mode():
            parts = [self._bucket([array[at : at + largest] for array in inputs]) for at in range(0, rows, largest)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def close(self) -> None:
        """Free the module and the staging buffers."""
        with self._lock:
            self._staging.clear()
            self._module = torch.nn.Identity()

    def _bucket(self, inputs: Sequence[npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        rows = len(inputs[0])
        padded = self._buckets[bisect_left(self._buckets, rows)]
        if self._stream is None:
            tensors = [self._pad(array, padded, slot) for slot, array in enumerate(inputs)]
            output: npt.NDArray[np.float32] = self._module(*tensors)[:rows].float().numpy().copy()
            return output
        assert self._autocast is not None
        with torch.cuda.stream(self._stream), self._autocast, torch.backends.cudnn.flags(allow_tf32=False):
            tensors = [
                self._pad(array, padded, slot).to(self._device, non_blocking=True) for slot, array in enumerate(inputs)
            ]
            result = self._module(*tensors)[:rows].float().to("cpu", non_blocking=True)
        # Also what makes the staging buffers free for the next batch.
        self._stream.synchronize()
        answer: npt.NDArray[np.float32] = result.numpy().copy()
        return answer

    def _pad(self, array: npt.NDArray[Any], rows: int, slot: int) -> torch.Tensor:
        shape = list(array.shape)
        shape[0] = rows
        if array.ndim == 2:
            shape[1] = -(-shape[1] // self._length_step) * self._length_step
        buffer = self._buffer(slot, shape, torch.from_numpy(array[:0]).dtype)
        view = buffer.numpy()
        view[...] = 0
        view[tuple(slice(size) for size in array.shape)] = array
        return buffer

    def _buffer(self, slot: int, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """A part of the slot's staging buffer, which grows to the largest batch seen."""
        size = int(np.prod(shape))
        held = self._staging.get(slot)
        if held is None or held.numel() < size or held.dtype != dtype:
            held = torch.empty(size, dtype=dtype, pin_memory=self._cuda)
            self._staging[slot] = held
        return held[:size].view(*shape)


class _Headed(torch.nn.Module):
    """A module with a linear layer and normalisation behind it."""

    def __init__(self, module: torch.nn.Module, head: LinearHead) -> None:
        super().__init__()
        self.module = module
        self.weight: torch.Tensor
        self.bias: torch.Tensor
        self.register_buffer("weight", torch.from_numpy(head.weight))
        self.register_buffer("bias", torch.from_numpy(head.bias))

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return F.normalize(F.linear(self.module(*inputs), self.weight, self.bias), dim=1)
