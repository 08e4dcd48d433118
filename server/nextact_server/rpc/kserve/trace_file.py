"""Traces in Triton's JSON format, and the files that take them."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from nextact_server.inference.tensors import Tensor, datatype_of

__all__ = ["FinishedTrace", "TraceBuffer", "TraceFile", "entries"]

logger = logging.getLogger(__name__)

WRITTEN_AT_ONCE = 64
"""Traces that gather for one write where no log_frequency says how many."""


class FinishedTrace(Protocol):
    """What is written of a traced request."""

    id: int
    parent_id: int
    model_name: str
    model_version: int
    request_id: str
    stamps: list[tuple[str, int]]
    tensors: list[tuple[str, Mapping[str, Tensor]]]


def entries(trace: FinishedTrace) -> list[dict[str, object]]:
    """A trace as Triton's JSON has it: who it is, then one object per moment (ns of the monotonic clock) and tensor."""
    head: dict[str, object] = {
        "id": trace.id,
        "model_name": trace.model_name,
        "model_version": trace.model_version,
    }
    if trace.request_id:
        head["request_id"] = trace.request_id
    if trace.parent_id:
        head["parent_id"] = trace.parent_id
    found = [head]
    for name, moment_ns in sorted(trace.stamps, key=lambda stamp: stamp[1]):
        found.append({"id": trace.id, "timestamps": [{"name": name, "ns": moment_ns}]})
    for activity, tensors in trace.tensors:
        for name, tensor in tensors.items():
            found.append({"id": trace.id, "activity": activity, "tensor": _tensor(name, tensor)})
    return found


class TraceFile:
    """A file for traces, valid JSON after every write. Used by one thread. Failures are logged and lose traces."""

    def __init__(self, path: Path | None) -> None:
        self._path = path or Path(os.devnull)
        self._begun = False
        self._numbered = 0

    def append(self, traces: Sequence[FinishedTrace]) -> None:
        """Add traces to the file itself; the first ones replace what it held before."""
        begun, self._begun = self._begun, False
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("r+b" if begun else "wb") as file:
                if begun:
                    file.seek(-1, os.SEEK_END)  # over the closing bracket
                file.write(f"{',' if begun else '['}{_joined(traces)}]".encode())
            self._begun = True
        except OSError as error:
            logger.error("%d traces are lost: %s: %s", len(traces), self._path, error.strerror)

    def save(self, traces: Sequence[FinishedTrace]) -> None:
        """Write traces to the next file of their own, `<path>.<n>`."""
        path = self._path.with_name(f"{self._path.name}.{self._numbered}")
        self._numbered += 1
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"[{_joined(traces)}]", encoding="utf-8")
        except OSError as error:
            logger.error("%d traces are lost: %s: %s", len(traces), path, error.strerror)


class TraceBuffer:
    """The finished traces of one group of models, until there are enough of them to be written. Used by one thread."""

    def __init__(self, file: TraceFile, frequency: int) -> None:
        self._file = file
        self._frequency = frequency
        self._enough = frequency or WRITTEN_AT_ONCE
        self._traces: list[FinishedTrace] = []

    def add(self, trace: FinishedTrace) -> None:
        """Take a trace, and write if they are enough."""
        self._traces.append(trace)
        if len(self._traces) >= self._enough:
            self.flush()

    def flush(self) -> None:
        """Write what there is."""
        traces, self._traces = self._traces, []
        if traces and self._frequency:
            self._file.save(traces)
        elif traces:
            self._file.append(traces)

    def retire(self) -> None:
        """Write what there is, and from now on each trace that still comes."""
        self._enough = 1
        self.flush()


def _joined(traces: Sequence[FinishedTrace]) -> str:
    return ",".join(json.dumps(entry, separators=(",", ":")) for trace in traces for entry in entries(trace))


def _tensor(name: str, tensor: Tensor) -> dict[str, str]:
    return {
        "name": name,
        "data": ",".join(_text(element) for element in tensor.reshape(-1).tolist()),
        "shape": ",".join(map(str, tensor.shape)),
        "dtype": str(datatype_of(tensor)),
    }


def _text(element: object) -> str:
    if isinstance(element, bytes):
        return element.decode("utf-8", "backslashreplace")
    if isinstance(element, bool):
        return str(int(element))
    return f"{element:g}" if isinstance(element, float) else str(element)
