"""Numpy arrays that grow in place, and slots in them that are used again."""

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

_T = TypeVar("_T", bound=np.generic)


def grown(array: NDArray[_T], rows: int, fill: Any = 0) -> NDArray[_T]:
    """The same array with at least `rows` rows, the new ones holding `fill`.

    It grows in place, and large ones by an eighth: the system moves pages where it can, so that no caller pays for
    a copy of everything. The array must own its data, and no view of it may be used afterwards.
    """
    held = len(array)
    if held < rows:
        room = max(rows, held + min(held, max(1 << 16, held >> 3)))
        array.resize((room, *array.shape[1:]), refcheck=False)
        if fill:
            array[held:] = fill
    return array


class Slots:
    """Hands out row numbers: those given back first, then new ones."""

    def __init__(self) -> None:
        self._free = np.zeros(16, np.int64)
        self._n_free = 0
        self._used = 0

    @property
    def high_water(self) -> int:
        """All slots handed out so far are below this."""
        return self._used

    def take(self, n: int) -> NDArray[np.int64]:
        """n slots that nobody holds."""
        again = min(n, self._n_free)
        self._n_free -= again
        reused = self._free[self._n_free : self._n_free + again].copy()
        fresh = np.arange(self._used, self._used + n - again)
        self._used += n - again
        return np.concatenate([reused, fresh]) if again else fresh

    def give_back(self, slots: NDArray[np.int64]) -> None:
        """Frees slots, each held until now."""
        self._free = grown(self._free, self._n_free + len(slots))
        self._free[self._n_free : self._n_free + len(slots)] = slots
        self._n_free += len(slots)
