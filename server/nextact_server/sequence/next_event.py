"""When users' next events come, as the model's head says it for the moment that each call asks for."""

import numpy as np
import torch
from numpy.typing import NDArray

from nextact_server.events.call import NextColumns
from nextact_server.sequence.arena import NO_TIME
from nextact_server.sequence.merge import Merged
from nextact_server.sequence.model import SequenceModel
from nextact_server.sequence.survival import bin_edges, expected_gap_s, leave_probability

MICROSECONDS = 1_000_000


def next_event(
    model: SequenceModel, hidden: torch.Tensor, merged: Merged, rows: NDArray[np.int64], last_us: NDArray[np.int64]
) -> NextColumns | None:
    """What is expected after the rows int64[P] of a batch; None if the model has no such head.

    `hidden` float32[P, output_dim] and `last_us` int64[P], the time of the user's last event or NO_TIME, are as they
    are after each row. The moment asked for reaches the head only through the time that has gone by since then.
    """
    horizon_s = model.config.horizon_s
    if horizon_s is None:
        return None
    with torch.inference_mode():
        logits = model.next_logits(hidden).cpu().numpy()
    elapsed, edges = elapsed_s(merged, rows, last_us), bin_edges(horizon_s, logits.shape[1])
    return NextColumns(
        expected_gap_s=expected_gap_s(logits, elapsed, edges),
        leave_probability=leave_probability(logits, elapsed, horizon_s, edges),
        horizon_s=horizon_s,
    )


def elapsed_s(merged: Merged, rows: NDArray[np.int64], last_us: NDArray[np.int64]) -> NDArray[np.float64]:
    """Seconds from each user's last event to the moment that the row's call asks for, float64[P].

    0 where that moment lies before the event, and for a user without any.
    """
    options = [call.options for call in merged.calls]
    asked = np.array([NO_TIME if option.as_of_us is None else option.as_of_us for option in options], np.int64)
    at_event = np.array([option.at_event for option in options], np.bool_)
    call = merged.call[rows]
    unasked = np.where(at_event[call], last_us, merged.received(rows))
    moment = np.where(asked[call] == NO_TIME, unasked, asked[call])
    gone = np.where(last_us == NO_TIME, 0, moment - last_us)
    return np.maximum(gone, 0) / MICROSECONDS
