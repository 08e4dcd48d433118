"""Who did what, and what the server had expected: the table that is shown while traffic runs."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from typing import Final

from rich.table import Table
from rich.text import Text

from demo.traffic import Outcome
from nextact_server.training.movielens import RATING_ACTIONS

_ROWS: Final = 14
_TITLE: Final = 34
_COLUMNS: Final = (
    ("user", 4),
    ("did", 7),
    ("what", None),
    ("expected", 11),
    ("place", 7),
    ("the server's first choice", None),
)
_COLOURS: Final = {"like": "green", "watch": "cyan", "dislike": "red", "tag": "magenta"}


class Board:
    """Keeps the last outcomes and running figures. Safe between threads."""

    def __init__(self, names: Mapping[str, str], total: int) -> None:
        """`names` are the items' titles; `total` events will come."""
        self._names = names
        self._total = total
        self._lock = threading.Lock()
        self._last: deque[Outcome] = deque(maxlen=_ROWS)
        self.outcomes: list[Outcome] = []
        self._targets = self._hits = self._actions = 0

    def tell(self, outcome: Outcome) -> None:
        """One more event came."""
        with self._lock:
            self.outcomes.append(outcome)
            self._last.append(outcome)
            self._actions += outcome.expected.action == outcome.moment.action
            if outcome.moment.action in RATING_ACTIONS:
                self._targets += 1
                self._hits += outcome.moment.item_id in outcome.expected.items

    def table(self) -> Table:
        """The last events as a table."""
        with self._lock:
            last, title = list(self._last), self._summary()
        table = Table(title=title, title_justify="left", expand=True)
        for name, width in _COLUMNS:
            table.add_column(name, no_wrap=True, width=width, ratio=None if width else 1)
        for outcome in last:
            moment, expected = outcome.moment, outcome.expected
            right = expected.action == moment.action
            table.add_row(
                moment.user,
                Text(moment.action, style=_COLOURS.get(moment.action, "")),
                Text(self._name(moment.item_id)),
                Text(f"{expected.action} {expected.probability:.0%}", style="bold" if right else "dim"),
                _place(outcome),
                Text(self._name(expected.items[0]), style="dim"),
            )
        return table

    def line(self) -> str:
        """The running figures and the last event, for output that is not a terminal."""
        with self._lock:
            outcome = self._last[-1]
            moment, expected = outcome.moment, outcome.expected
            return (
                f"{self._summary()} | user {moment.user}: {moment.action} {self._name(moment.item_id)!r}, expected "
                f"{expected.action} {expected.probability:.0%} and first {self._name(expected.items[0])!r}"
            )

    def _summary(self) -> str:
        count = len(self.outcomes)
        return (
            f"{count:,} of {self._total:,} events; next item among the ten expected: "
            f"{self._hits / max(1, self._targets):.1%}, action as expected: {self._actions / max(1, count):.1%}"
        )

    def _name(self, item_id: str) -> str:
        name = self._names.get(item_id, item_id)
        return name if len(name) <= _TITLE else f"{name[: _TITLE - 1]}…"


def _place(outcome: Outcome) -> Text:
    if outcome.moment.action not in RATING_ACTIONS:
        return Text("")
    items = outcome.expected.items
    if outcome.moment.item_id not in items:
        return Text("–", style="dim")
    return Text(f"{items.index(outcome.moment.item_id) + 1} of 10", style="bold green")
