"""The one gate of all calls, whichever transport brought them: size, drain, and later who may call."""

import asyncio
from collections.abc import Sequence

from nextact_server.rpc.errors import too_much, unavailable

Metadata = Sequence[tuple[str, str | bytes]]


class Admission:
    """Decides whether a call may come in; `draining` is set once the server stops."""

    def __init__(self, max_message_bytes: int) -> None:
        self._max_message_bytes = max_message_bytes
        self.is_draining = False
        self.draining = asyncio.Event()

    def admit(self, method: str, metadata: Metadata, peer: str, size: int) -> None:  # noqa: ARG002
        """Raises CallError if the call, or the next message of its stream, may not come in."""
        if self.is_draining:
            raise unavailable("the server is stopping; try another, or again later")
        self.check_size(size)

    def check_size(self, size: int) -> None:
        """Raises RESOURCE_EXHAUSTED for a message that is too large."""
        if size > self._max_message_bytes:
            limit = self._max_message_bytes
            raise too_much(f"the message has {size} bytes; at most {limit} are allowed (max_message_bytes)")

    def drain(self) -> None:
        """Lets nothing new in from now on. On the event loop's thread."""
        self.is_draining = True
        self.draining.set()
