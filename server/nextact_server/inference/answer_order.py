"""Answers in the order in which their batches left, whichever worker is done first."""

import logging
import threading
from collections.abc import Callable

__all__ = ["AnswerOrder"]

logger = logging.getLogger(__name__)


class AnswerOrder:
    """Holds back what is finished until all that left before it is. Every number from 0 must come, once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # never held across an answer
        self._next = 0
        self._finished: dict[int, Callable[[], None]] = {}
        self._answering = False

    def finish(self, number: int, answer: Callable[[], None]) -> None:
        """Note that a batch is finished; `answer` is called when its turn comes, by this thread or another."""
        with self._lock:
            self._finished[number] = answer
            if self._answering:
                return
            self._answering = True
        while (due := self._take_next()) is not None:
            try:
                due()
            except BaseException:  # those behind it must still be answered
                logger.exception("answering a batch failed")

    def _take_next(self) -> Callable[[], None] | None:
        with self._lock:
            due = self._finished.pop(self._next, None)
            if due is None:
                self._answering = False
            else:
                self._next += 1
            return due
