"""Gates for the code of models that run in the test's process: shut, a model that comes to one waits there."""

import threading
from collections import defaultdict

__all__ = ["Gate", "gate"]


class Gate:
    """Open once `open` was called; `reached` is set by whoever waited for that."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.seen: list[float] = []
        """What models noted here, in order."""
        self._opened = threading.Event()

    def open(self) -> None:
        """Let everyone through, from now on."""
        self._opened.set()

    def wait(self) -> None:
        """Stop here until it is open."""
        self.reached.set()
        self._opened.wait()


_gates: defaultdict[str, Gate] = defaultdict(Gate)


def gate(name: str) -> Gate:
    """The gate of that name."""
    return _gates[name]
