"""What an encoder needs of the thing that computes its model."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["LinearHead", "Runtime"]


@dataclass(frozen=True, slots=True)
class LinearHead:
    """A last layer put behind a model when it is loaded: `features @ weight.T + bias`, at length 1.

    It is no part of the converted model, so another head needs no other conversion. weight float32 [d, p], bias
    float32 [d].
    """

    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]


class Runtime(Protocol):
    """A loaded model with one output. The first axis of every input, and of the output, is the batch."""

    @property
    def device(self) -> str:
        """Where it computes, for logs and metadata: `cpu` or `cuda:0`."""

    def run(self, *inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Compute a batch of any size from 1 on; the result is the caller's own. May be called from any thread."""

    def close(self) -> None:
        """Free the model; it must not run any more."""
