"""Time as the sequence model needs it: how long since the user's last event, and where in the day and the week."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

TIME_DIM: Final = 6
"""Columns: log gap, no previous event, sine and cosine of the hour, sine and cosine of the weekday."""

_SECOND_US: Final = 1_000_000
_DAY_US: Final = 86_400 * _SECOND_US
_LOG_SCALE: Final = 10.0
_EPOCH_WEEKDAY: Final = 3
"""1 January 1970 was a Thursday; Monday is 0."""


def time_features(effective_time_us: npt.NDArray[np.int64], gap_us: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Return float32[n, TIME_DIM] for n events.

    `effective_time_us` int64[n] is in microseconds since 1970 UTC; `gap_us` int64[n] is the time since the user's
    previous event, -1 where there is none. The gap is ln(1 + seconds) / 10: .07 for a second, 1.14 for a day, 1.73
    for a year.
    """
    out = np.empty((effective_time_us.shape[0], TIME_DIM), dtype=np.float32)
    out[:, 0] = np.log1p(np.maximum(gap_us, 0) / _SECOND_US) / _LOG_SCALE
    out[:, 1] = gap_us < 0
    hour_angle = np.mod(effective_time_us, _DAY_US) * (2.0 * np.pi / _DAY_US)
    out[:, 2] = np.sin(hour_angle)
    out[:, 3] = np.cos(hour_angle)
    weekday = np.mod(np.floor_divide(effective_time_us, _DAY_US) + _EPOCH_WEEKDAY, 7)
    weekday_angle = weekday * (2.0 * np.pi / 7.0)
    out[:, 4] = np.sin(weekday_angle)
    out[:, 5] = np.cos(weekday_angle)
    return out
