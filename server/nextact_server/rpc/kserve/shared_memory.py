"""Memory that a caller shares with the server instead of sending tensors: regions by name, of either kind.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_shared_memory.md
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from nextact_server.inference.infer_errors import ErrorCode, InferError, internal, invalid_argument, not_found
from nextact_server.inference.tensors import Buffer

__all__ = ["Memory", "SharedMemory", "Window", "byte_views"]


class Memory(Protocol):
    """A region's memory. It lives until the last who holds it lets go, also when its region was unregistered."""

    @property
    def byte_size(self) -> int:
        """Bytes of the region."""

    def read(self, offset: int, byte_size: int) -> memoryview:
        """A copy of some bytes, writable and nobody else's. Raises InferError."""

    def write(self, offset: int, views: list[memoryview]) -> None:
        """Put flat views, none of them empty, one behind the other. Raises InferError."""


M = TypeVar("M", bound=Memory)


def byte_views(parts: Sequence[Buffer]) -> list[memoryview]:
    """Buffers as flat bytes, without those that are empty (of which a view cannot be cast)."""
    return [view.cast("B") for part in parts if (view := memoryview(part)).nbytes]


@dataclass(frozen=True, slots=True)
class Window:
    """A checked part of a region, usable whatever becomes of the region's name."""

    memory: Memory
    offset: int
    byte_size: int

    def read(self) -> memoryview:
        """A copy of its bytes. Raises InferError where the other side took the memory away."""
        return self.memory.read(self.offset, self.byte_size)

    def write(self, parts: Sequence[Buffer]) -> None:
        """Put buffers one behind the other, from its start. Raises InferError as `read`, and where they do not fit."""
        views = byte_views(parts)
        written = sum(view.nbytes for view in views)
        if written > self.byte_size:
            raise internal(
                f"{written} bytes do not fit into the {self.byte_size} bytes of shared memory given for them"
            )
        self.memory.write(self.offset, views)


class SharedMemory:
    """The regions by name; a name is of one kind. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._regions: dict[str, Memory] = {}

    def window(self, region: str, offset: int, byte_size: int) -> Window:
        """A part of a region: for a response's tensor, taken when the request is read, so that a mistake is told then.

        Raises:
            InferError: NOT_FOUND for a region that was never registered; INVALID_ARGUMENT for a part that is not in it.
        """
        memory = self._regions.get(region)
        if memory is None:
            raise not_found(f"Unable to find shared memory region: '{region}'")
        if not 0 <= offset < memory.byte_size:
            raise invalid_argument(f"Invalid offset for shared memory region: '{region}'")
        if not 0 < byte_size <= memory.byte_size - offset:
            raise invalid_argument(f"Invalid offset + byte size for shared memory region: '{region}'")
        return Window(memory, offset, byte_size)

    def read(self, region: str, offset: int, byte_size: int) -> memoryview:
        """A copy of a part of a region, writable and nobody else's: what the peer does to the memory meanwhile changes
        no tensor under a model. Raises InferError as `window`."""
        return self.window(region, offset, byte_size).read()

    def write(self, region: str, offset: int, parts: Sequence[Buffer]) -> None:
        """Put buffers one behind the other into a region. Raises InferError as `window`."""
        byte_size = sum(memoryview(part).nbytes for part in parts)
        if byte_size:
            self.window(region, offset, byte_size).write(parts)

    def add(self, name: str, memory: Memory) -> None:
        """Register a region. Raises ALREADY_EXISTS for a name in use."""
        with self._lock:
            self.check_free(name)
            self._regions[name] = memory

    def check_free(self, name: str) -> None:
        """Raise ALREADY_EXISTS for a name in use."""
        if name in self._regions:
            raise InferError(ErrorCode.ALREADY_EXISTS, f"shared memory region '{name}' already in manager")

    def of_kind(self, kind: type[M], label: str, name: str) -> dict[str, M]:
        """The regions of a kind by name, or the one of that name (`label` is 'system' or 'cuda').

        Raises:
            InferError: NOT_FOUND: no such region, or one of the other kind.
        """
        with self._lock:
            if not name:
                return {name: memory for name, memory in self._regions.items() if isinstance(memory, kind)}
            memory = self._regions.get(name)
        if memory is None:
            raise not_found(f"Unable to find {label} shared memory region: '{name}'")
        if not isinstance(memory, kind):
            is_not = "CUDA shared memory, not system" if label == "system" else "system shared memory, not CUDA"
            raise not_found(f"The region named '{name}' is registered as {is_not} shared memory")
        return {name: memory}

    def remove(self, kind: type[Memory], name: str) -> None:
        """Forget a region of a kind, or all of them ('' ). A name that is not there is no error, as in Triton."""
        with self._lock:
            for each in [name] if name else list(self._regions):
                if isinstance(self._regions.get(each), kind):
                    del self._regions[each]
