"""Control inputs: what a model is told of a request's place in its sequence, as tensors of one element."""

from collections.abc import Sequence

import numpy as np

from nextact_server.inference.infer_errors import InferError
from nextact_server.inference.infer_request import InferRequest
from nextact_server.inference.infer_spec import ControlKind, SequenceControl
from nextact_server.inference.scheduling.sequence_errors import CorrelationId, wrong_id_type
from nextact_server.inference.tensors import DataType, Tensor

__all__ = ["ControlInputs"]


class ControlInputs:
    """Makes a model's control inputs: [1, 1] where it batches (the batch axis first), else [1].

    Every request gets arrays of its own: a model may write into its inputs.
    """

    def __init__(self, controls: Sequence[SequenceControl], *, batching: bool) -> None:
        self._shape = (1, 1) if batching else (1,)
        self._id = next((control for control in controls if control.kind is ControlKind.CORRID), None)
        flags = [control for control in controls if control.kind is not ControlKind.CORRID]
        self._flags = [
            [(control.name, self._flag(control, start=bool(at & 1), end=bool(at & 2), ready=True)) for control in flags]
            for at in range(4)
        ]
        self._none = [(control.name, self._flag(control, start=False, end=False, ready=False)) for control in flags]

    def unfit(self, model: str, correlation_id: CorrelationId) -> InferError | None:
        """Why the model cannot be told this correlation id, if it cannot."""
        control = self._id
        if control is None or isinstance(correlation_id, str) is (control.datatype is DataType.BYTES):
            return None
        return wrong_id_type(model, correlation_id, control.name)

    def told_id(self, correlation_id: CorrelationId) -> Tensor | None:
        """A sequence's correlation id as the model is told it; None where it is not.

        Integers are 64 bits; a narrower control gets the lower ones.
        """
        control = self._id
        if control is None:
            return None
        if isinstance(correlation_id, str):
            return np.full(self._shape, correlation_id.encode(), np.object_)
        dtype = control.datatype.numpy
        bits = correlation_id & ((1 << 8 * dtype.itemsize) - 1)
        return np.full(self._shape, bits, f"u{dtype.itemsize}").view(dtype)

    def add(self, inputs: dict[str, Tensor], request: InferRequest, told_id: Tensor | None) -> None:
        """Add the controls of a request; `told_id` is its sequence's."""
        for name, flag in self._flags[request.sequence_start + 2 * request.sequence_end]:
            inputs[name] = flag.copy()
        if self._id is not None and told_id is not None:
            inputs[self._id.name] = told_id.copy()

    def add_none(self, inputs: dict[str, Tensor]) -> None:
        """Add the controls of a slot that has no request: not ready, and no correlation id."""
        for name, flag in self._none:
            inputs[name] = flag.copy()
        if self._id is not None:
            nobody = b"" if self._id.datatype is DataType.BYTES else 0
            inputs[self._id.name] = np.full(self._shape, nobody, self._id.datatype.numpy)

    def _flag(self, control: SequenceControl, *, start: bool, end: bool, ready: bool) -> Tensor:
        is_true = {ControlKind.START: start, ControlKind.END: end, ControlKind.READY: ready}[control.kind]
        return np.full(self._shape, control.false_true[is_true], control.datatype.numpy)
