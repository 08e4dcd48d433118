"""Which requests are traced, and what becomes of their traces.

Files are written by a thread of their own. A request that is not traced costs one attribute check.
"""

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path

from nextact_server.inference.infer_request import InferRequest
from nextact_server.inference.instance import StageTimes
from nextact_server.rpc.kserve.trace_file import TraceBuffer, TraceFile
from nextact_server.rpc.kserve.trace_record import Moment, Trace, TracedSink
from nextact_server.rpc.kserve.trace_settings import DEFAULTS, TraceSettings, parse_changes

__all__ = ["Moment", "Trace", "Tracer"]

FILE_NAME = "trace.json"


class _Sampler:
    """Picks the requests of one model, or of all that have no settings of their own."""

    def __init__(self, settings: TraceSettings, buffer: TraceBuffer) -> None:
        self.settings = settings
        self.buffer = buffer
        self.left = settings.count
        self._seen = 0

    def picks(self) -> bool:
        settings = self.settings
        if not settings.levels or not settings.rate or not self.left:
            return False
        self._seen += 1
        if self._seen % settings.rate:
            return False
        if self.left > 0:
            self.left -= 1
        return True


class Tracer:
    """The tracing of a server. A listener of executions (`inference.execution.BatchListener`), too."""

    def __init__(self, trace_dir: Path | None = None) -> None:
        """`trace_dir` is where traces may be written, `trace.json` unless a caller sets another name; None: nowhere.

        `is_on` says whether anything may be traced; looked at once per batch it spares a look per request.
        """
        self._directory = trace_dir
        self._initial = DEFAULTS if trace_dir is None else DEFAULTS.with_changes({"file": trace_dir / FILE_NAME})
        self._lock = threading.Lock()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="trace-writer")
        self._next_id = count(1).__next__
        self._files: dict[Path, TraceFile] = {}
        self._changes: dict[str, dict[str, object]] = {"": {}}
        self._samplers = {"": self._sampler(self._initial)}
        self.is_on = False

    def sample(self, model_name: str) -> Trace | None:
        """A trace for the request about to be read, if it is one to be traced."""
        if not self.is_on:
            return None
        with self._lock:
            sampler = self._samplers.get(model_name) or self._samplers[""]
            if not sampler.picks():
                return None
        return Trace(model_name, self._next_id, partial(self._finished, sampler), sampler.settings.levels)

    def watch(self, request: InferRequest, model_name: str, model_version: int, received_ns: int | None = None) -> None:
        """Trace a request about to be submitted to that version, if it is one to be traced, to its last response.

        Its sink is put behind one that notes the moments. `received_ns`: `time.monotonic_ns` when its bytes came.
        """
        trace = self.sample(model_name)
        if trace is None:
            return
        request.trace = trace
        if received_ns is not None:
            trace.stamp(Moment.GRPC_WAITREAD_START, received_ns)
            trace.stamp(Moment.GRPC_WAITREAD_END, request.arrived_ns)
        trace.begin(request, model_version)
        request.sink = TracedSink(request.sink, trace)

    def executed(self, requests: Sequence[InferRequest], started_ns: int, times: StageTimes) -> None:
        """Note the moments of a batch in the traces of its requests."""
        if not self.is_on:
            return
        for request in requests:
            trace = request.trace
            if isinstance(trace, Trace):
                input_end_ns = started_ns + times.input_ns
                output_start_ns = input_end_ns + times.infer_ns
                trace.stamp(Moment.COMPUTE_START, started_ns)
                trace.stamp(Moment.COMPUTE_INPUT_END, input_end_ns)
                trace.stamp(Moment.COMPUTE_OUTPUT_START, output_start_ns)
                trace.stamp(Moment.COMPUTE_END, output_start_ns + times.output_ns)

    def settings(self, model_name: str = "") -> dict[str, list[str]]:
        """The settings that hold for a model, or ('' ) for all that have none of their own."""
        with self._lock:
            sampler = self._samplers.get(model_name) or self._samplers[""]
            return sampler.settings.with_changes({"count": sampler.left}).as_values()

    def update(self, model_name: str, settings: Mapping[str, Sequence[str]]) -> None:
        """Change settings of a model, or of all ('' ). An empty list makes one fall back: to all models', to the start.

        What a setting that is replaced had traced is written. Raises InferError; then nothing is changed.
        """
        changes = parse_changes(settings, self._directory)
        if not changes:
            return
        with self._lock:
            own = {**self._changes.get(model_name, {}), **changes}
            own = {field: value for field, value in own.items() if value is not None}
            self._effective(model_name, own).check()
            if own or not model_name:
                self._changes[model_name] = own
            else:
                self._changes.pop(model_name, None)
            self._replace(model_name)
            if not model_name:
                for name in list(self._samplers):
                    if name and self._samplers[name].settings != self._effective(name, self._changes[name]):
                        self._replace(name)
            self.is_on = any(sampler.settings.levels for sampler in self._samplers.values())

    def flush(self) -> None:
        """Write every finished trace; returns when they are in their files."""
        with self._lock:
            buffers = [sampler.buffer for sampler in self._samplers.values()]
        self._writer.submit(_flush, buffers).result()

    def close(self) -> None:
        """Trace no more, write what there is and end the thread."""
        self.is_on = False
        self.flush()
        self._writer.shutdown()

    def _effective(self, model_name: str, own: Mapping[str, object]) -> TraceSettings:
        shared = self._changes[""] if model_name else {}
        return self._initial.with_changes({**shared, **own})

    def _replace(self, name: str) -> None:
        former = self._samplers.pop(name, None)
        if former is not None:
            self._write(former.buffer.retire)
        if name in self._changes:
            self._samplers[name] = self._sampler(self._effective(name, self._changes[name]))

    def _sampler(self, settings: TraceSettings) -> _Sampler:
        path = settings.file
        file = TraceFile(path) if path is None else self._files.setdefault(path, TraceFile(path))
        return _Sampler(settings, TraceBuffer(file, settings.frequency))

    def _finished(self, sampler: _Sampler, trace: Trace) -> None:
        self._write(partial(sampler.buffer.add, trace))
        if not sampler.left and not sampler.settings.frequency:  # there may be none after this one
            self._write(sampler.buffer.flush)

    def _write(self, work: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # closed meanwhile
            self._writer.submit(work)


def _flush(buffers: Sequence[TraceBuffer]) -> None:
    for buffer in buffers:
        buffer.flush()
