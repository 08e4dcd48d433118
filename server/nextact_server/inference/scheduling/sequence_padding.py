"""Null requests: what stands in the batch slots of a direct batch whose sequences have nothing to run."""

from collections.abc import Sequence

import numpy as np

from nextact_server.inference.infer_errors import InferError
from nextact_server.inference.infer_request import InferRequest, InferResponse
from nextact_server.inference.scheduling.sequence_controls import ControlInputs
from nextact_server.inference.scheduling.sequence_slots import LiveSequence
from nextact_server.inference.tensors import Tensor

__all__ = ["NullRequest", "padded_rows"]


class _Nowhere:
    """Takes what a model answers to nobody."""

    def respond(self, request: InferRequest, response: InferResponse | InferError | None, final: bool) -> None:
        """Drop it."""


_NOWHERE = _Nowhere()


class NullRequest(InferRequest):
    """A row of zeros that nobody asked for."""

    __slots__ = ()
    is_null = True


def padded_rows(
    sequences: Sequence[LiveSequence], requests: Sequence[InferRequest], controls: ControlInputs
) -> list[InferRequest]:
    """The requests at their sequences' rows, and null requests of their shapes in the rows below that have none.

    Triton does so for every model with direct scheduling, whether a READY control tells it or not.
    """
    height = max([sequence.row for sequence in sequences]) + 1
    if height == len(requests) == 1:
        return list(requests)
    at = {sequence.row: request for sequence, request in zip(sequences, requests, strict=True)}
    if len(at) == height:
        return [at[row] for row in range(height)]
    like = requests[0].inputs
    return [at.get(row) or _null(like, controls) for row in range(height)]


def _null(like: dict[str, Tensor], controls: ControlInputs) -> NullRequest:
    inputs = {name: _blank(tensor) for name, tensor in like.items()}
    controls.add_none(inputs)
    return NullRequest(inputs, _NOWHERE)


def _blank(tensor: Tensor) -> Tensor:
    return np.full(tensor.shape, b"", np.object_) if tensor.dtype == np.object_ else np.zeros_like(tensor)
