"""One batch of sequences on one instance: controls and state go in, states come out."""

from collections.abc import Sequence

from nextact_server.inference.execution import as_infer_error
from nextact_server.inference.infer_request import InferRequest, InferResponse
from nextact_server.inference.instance import Result
from nextact_server.inference.rate_limiter import Runs
from nextact_server.inference.scheduling.sequence_controls import ControlInputs
from nextact_server.inference.scheduling.sequence_padding import padded_rows
from nextact_server.inference.scheduling.sequence_slots import LiveSequence
from nextact_server.inference.scheduling.sequence_state import ImplicitState, StateSink
from nextact_server.inference.statistics import ModelStatistics

__all__ = ["SequenceRun"]


class SequenceRun:
    """Runs batches for all instances of a model.

    Args:
        controls: the model's control inputs.
        states: its implicit states.
        statistics: told of requests that an execution left uncounted.
        slotted: whether a sequence's row in the batch is its own, so that rows without a request are filled.
        decoupled: whether responses go past the scheduler.
    """

    def __init__(
        self,
        controls: ControlInputs,
        states: ImplicitState,
        statistics: ModelStatistics,
        *,
        slotted: bool,
        decoupled: bool,
    ) -> None:
        self._controls = controls
        self._states = states
        self._statistics = statistics
        self._slotted = slotted
        self._decoupled = decoupled

    def run(
        self, execution: Runs, sequences: Sequence[LiveSequence], requests: Sequence[InferRequest]
    ) -> Sequence[Result]:
        """A result per request; each belongs to the sequence at its place, which nobody else touches meanwhile.

        A batch that fails is not tried again in parts: some of it may have changed a state inside the model.
        """
        try:
            for sequence, request in zip(sequences, requests, strict=True):
                self._complete(sequence, request)
            rows = padded_rows(sequences, requests, self._controls) if self._slotted else requests
            results = execution.run(rows)
        except BaseException as error:  # also a model that exits: the worker must live on
            self._statistics.left(len(requests))
            return [as_infer_error(error)] * len(requests)
        if rows is not requests:
            results = [results[sequence.row] for sequence in sequences]
        if self._states:
            for sequence, request, result in zip(sequences, requests, results, strict=True):
                if isinstance(result, InferResponse) and sequence.state is not None:
                    self._states.keep(request, result, sequence.state)
        return results

    def _complete(self, sequence: LiveSequence, request: InferRequest) -> None:
        inputs = dict(request.inputs)  # the caller's own stays as it was
        if sequence.told_id is None:
            sequence.told_id = self._controls.told_id(sequence.id)
        self._controls.add(inputs, request, sequence.told_id)
        if self._states:
            if request.sequence_start or sequence.state is None:
                sequence.state = self._states.first()
            inputs.update(sequence.state)
            if self._decoupled and not isinstance(request.sink, StateSink):  # it has one when it is rescheduled
                request.sink = StateSink(request.sink, self._states, sequence.state)
        request.inputs = inputs
