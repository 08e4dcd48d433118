"""The seam between the native front and the methods whose calls it hands over in bursts."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from nextact_server.rpc.errors import CallError

__all__ = ["Answers", "Burst", "MakeBurst"]


class Answers(Protocol):
    """Where answers go, from any thread; the first one to a call is the one that counts."""

    def respond(self, call_id: int, response: bytes) -> None:
        """Answer a call."""

    def fail(self, call_id: int, error: CallError) -> None:
        """End a call with a status."""


class Burst(Protocol):
    """One method, whose calls come as many at once as there are.

    `read`, `start`, `wait` and `cancel` are called on the dispatching thread alone; what `read` or `start` raises ends
    the calls that it was about.
    """

    def read(self, payload: bytes) -> Any:
        """Decode a call. Raises what `as_call_error` can make a status of."""

    def start(self, calls: Mapping[int, Any]) -> None:
        """Take decoded calls by call id, in the order they came, without waiting for their answers."""

    def wait(self) -> None:
        """Return when the next calls may be read."""

    def cancel(self, call_id: int) -> bool:
        """The caller of a started call went away. False: no such call is open."""

    def unanswered(self) -> "list[asyncio.Future[Any]]":
        """Futures of the running event loop, done when the calls that are open now were answered."""

    def abandon(self, error: CallError) -> None:
        """End every open call with a status, and whatever is still being done for it."""


MakeBurst = Callable[[Answers], Burst]
