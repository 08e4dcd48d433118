"""Requests with more rows than a batch may have: computed in parts, answered as one."""

import threading
from collections.abc import Sequence

import numpy as np

from nextact_server.inference.infer_errors import InferError, internal
from nextact_server.inference.infer_request import InferRequest, InferResponse

__all__ = ["split_rows"]


class _Rejoin:
    """The sink of all parts of a request: answers it when the last has answered, or the first has failed."""

    def __init__(self, whole: InferRequest) -> None:
        self._whole = whole
        self._lock = threading.Lock()
        self._parts: list[InferRequest] = []
        self._answers: dict[InferRequest, InferResponse] = {}

    def wait_for(self, parts: Sequence[InferRequest]) -> None:
        """Say which parts there are, before any of them is submitted."""
        self._parts = list(parts)
        self._whole.on_cancel = self.cancel

    def cancel(self) -> None:
        """Take back the parts that wait; the first of them that was taken back answers the whole."""
        for part in list(self._parts):
            part.cancel()

    def respond(self, request: InferRequest, response: InferResponse | InferError | None, final: bool) -> None:
        """Take the answer of a part."""
        if not final:
            return
        whole = isinstance(response, InferResponse)
        with self._lock:
            if isinstance(response, InferResponse):
                self._answers[request] = response
            if not self._parts or (whole and len(self._answers) < len(self._parts)):
                return
            # The parts refer back here: let go of them, lest inputs and outputs stay until the collector runs.
            parts, self._parts = self._parts, []
            answers, self._answers = self._answers, {}
        self._whole.on_cancel = None
        if whole:
            self._whole.respond(_joined([answers[part] for part in parts]))
            return
        self._whole.respond(response)
        for part in parts:
            part.cancel()


def split_rows(request: InferRequest, most: int) -> list[InferRequest]:
    """Cut a request into parts of at most `most` rows; once all are answered, it is, by outputs joined on axis 0.

    Inputs of the parts are views. The answer has the parameters of the first part's; a part that fails or has no
    answer is the answer of the whole. Cancelling the request cancels its parts.
    """
    sink = _Rejoin(request)
    parts = [_rows(request, sink, at, min(at + most, request.batch_size)) for at in range(0, request.batch_size, most)]
    parts[0].trace = request.trace
    sink.wait_for(parts)
    return parts


def _rows(whole: InferRequest, sink: _Rejoin, start: int, end: int) -> InferRequest:
    part = InferRequest(
        {name: tensor[start:end] for name, tensor in whole.inputs.items()},
        sink,
        batch_size=end - start,
        id=whole.id,
        output_names=whole.output_names,
        parameters=whole.parameters,
        priority=whole.priority,
        timeout_us=whole.timeout_us,
        correlation_id=whole.correlation_id,
    )
    part.arrived_ns = whole.arrived_ns
    part.stages = whole.stages
    part.is_cancelled = whole.is_cancelled
    return part


def _joined(answers: Sequence[InferResponse]) -> InferResponse | InferError:
    first = answers[0]
    try:
        outputs = {name: np.concatenate([answer.outputs[name] for answer in answers]) for name in first.outputs}
    except (KeyError, ValueError) as error:
        return internal(f"the parts of a split request were answered differently: {error!r}")
    return InferResponse(outputs, first.parameters)
