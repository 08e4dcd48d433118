"""A closed-loop gRPC load generator on bare HTTP/2: many unary calls on one connection, each with bytes of its own.

h2load sends the same bytes again and again, which an idempotent server takes for one event and its repetitions; the
libraries of gRPC cost the client more CPU per call than a fast server needs. Here every call's frames are made before
the clock starts, and the loop only writes them and counts what comes back.

Framing: RFC 9113; header compression: RFC 7541; calls: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Http2Error", "Load", "run_load"]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
ACK = END_STREAM = 0x1
END_HEADERS = 0x4
HEADER_TABLE_SIZE, ENABLE_PUSH, INITIAL_WINDOW_SIZE = 1, 2, 4
LARGEST_WINDOW = 2**31 - 1
FIRST_WINDOW = 65_535
LARGEST_FRAME = 16_384
FRAME = struct.Struct(">HBBBL")  # length in 24 bits as 16 + 8, type, flags, stream
RECEIVE = 256 * 1024


class Http2Error(RuntimeError):
    """The connection broke, or the server does not speak as expected."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a run brought: wall seconds, then of each call, in order, its seconds and its answer (None: it failed).

    `starts` are moments of `time.perf_counter`, which on Linux all processes share.
    """

    seconds: float
    latencies: list[float]
    answers: list[bytes | None]
    starts: list[float]


def run_load(host: str, port: int, path: str, messages: Sequence[bytes], concurrency: int, warm_up: int = 0) -> Load:
    """Sends every message once as a unary call, `concurrency` at a time, on one connection.

    The first `warm_up` messages are answered before the clock starts. An answer is the response message; a call whose
    status is not OK carries none. Raises Http2Error if the connection breaks.
    """
    with socket.create_connection((host, port), timeout=60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loop = _Connection(connection, f"{host}:{port}", path, messages)
        if warm_up:
            loop.run(0, warm_up, concurrency)
        seconds = loop.run(warm_up, len(messages), concurrency)
        return Load(seconds, loop.latencies[warm_up:], loop.answers()[warm_up:], loop.starts[warm_up:])


class _Connection:
    def __init__(self, connection: socket.socket, authority: str, path: str, messages: Sequence[bytes]) -> None:
        self._socket = connection
        self._rest = b""
        self._window = FIRST_WINDOW
        settings = {HEADER_TABLE_SIZE: 0, ENABLE_PUSH: 0, INITIAL_WINDOW_SIZE: LARGEST_WINDOW}
        connection.sendall(
            PREFACE
            + _frame(SETTINGS, 0, 0, _settings(settings))
            + _frame(WINDOW_UPDATE, 0, 0, struct.pack(">L", LARGEST_WINDOW - FIRST_WINDOW))
        )
        first, later = _header_blocks(authority, path)
        self._wire = [
            _call(2 * number + 1, first if number == 0 else later, message) for number, message in enumerate(messages)
        ]
        self._sizes = [len(message) + 5 for message in messages]
        self._data: list[list[bytes]] = [[] for _ in messages]
        self.latencies = [0.0] * len(messages)
        self.starts = [0.0] * len(messages)

    def run(self, start: int, stop: int, concurrency: int) -> float:
        """Calls `start` to `stop`; returns the seconds from the first byte sent to the last answer."""
        latencies, starts, clock = self.latencies, self.starts, time.perf_counter
        began = clock()
        sent = answered = start
        free = concurrency
        while answered < stop:
            ready = self._affordable(sent, min(stop, sent + free))
            if ready > sent:
                now = clock()
                starts[sent:ready] = [now] * (ready - sent)
                self._socket.sendall(b"".join(self._wire[sent:ready]))
                free -= ready - sent
                sent = ready
            finished = self._receive()
            now = clock()
            for number in finished:
                latencies[number] = now - starts[number]
            free += len(finished)
            answered += len(finished)
        return clock() - began

    def answers(self) -> list[bytes | None]:
        """The response messages, without gRPC's prefix."""
        return [b"".join(parts)[5:] if parts else None for parts in self._data]

    def _affordable(self, start: int, stop: int) -> int:
        """How far the connection's window allows to send."""
        for number in range(start, stop):
            if self._sizes[number] > self._window:
                return number
            self._window -= self._sizes[number]
        return stop

    def _receive(self) -> list[int]:
        """Reads what is there; returns the numbers of the calls that are answered."""
        chunk = self._socket.recv(RECEIVE)
        if not chunk:
            raise Http2Error("the server closed the connection")
        buffer = self._rest + chunk if self._rest else chunk
        at, size, finished, unpack = 0, len(buffer), [], FRAME.unpack_from
        while size - at >= 9:
            high, low, kind, flags, stream = unpack(buffer, at)
            start = at + 9
            stop = start + (high << 8 | low)
            if stop > size:
                break
            at = stop
            if kind == DATA:
                self._data[stream >> 1].append(buffer[start:stop])
            elif kind != HEADERS:
                if kind == RST_STREAM:
                    finished.append(stream >> 1)
                else:
                    self._control(kind, flags, stream, buffer[start:stop])
                continue
            if flags & END_STREAM:
                finished.append(stream >> 1)
        self._rest = buffer[at:]
        return finished

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == WINDOW_UPDATE and stream == 0:
            self._window += struct.unpack(">L", payload)[0]
        elif kind == SETTINGS and not flags & ACK:
            self._socket.sendall(_frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self._socket.sendall(_frame(PING, ACK, 0, payload))
        elif kind == GOAWAY:
            raise Http2Error(f"the server said goodbye: {payload[8:].decode(errors='replace') or payload[:8].hex()}")


def _call(stream: int, headers: bytes, message: bytes) -> bytes:
    """A call's frames: headers, then the message behind gRPC's prefix, in frames that every server takes."""
    if len(message) + 5 > FIRST_WINDOW:
        raise ValueError(f"a message of {len(message)} bytes; at most {FIRST_WINDOW - 5} fit a stream's first window")
    body = struct.pack(">BL", 0, len(message)) + message
    frames = [_frame(HEADERS, END_HEADERS, stream, headers)]
    for start in range(0, len(body), LARGEST_FRAME):
        flags = END_STREAM if start + LARGEST_FRAME >= len(body) else 0
        frames.append(_frame(DATA, flags, stream, body[start : start + LARGEST_FRAME]))
    return b"".join(frames)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return FRAME.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


def _settings(values: dict[int, int]) -> bytes:
    return b"".join(struct.pack(">HL", key, value) for key, value in values.items())


def _header_blocks(authority: str, path: str) -> tuple[bytes, bytes]:
    """The header block of a connection's first call, which fills the table, and that of all others, which use it."""
    post, http = b"\x83", b"\x86"
    fields = (b"\x44" + _text(path), b"\x41" + _text(authority), b"\x5f" + _text("application/grpc"))
    trailers = b"\x40" + _text("te") + _text("trailers")
    newest = 62  # the table of RFC 7541 section 2.3.3: 61 static entries, then the newest
    indexed = bytes(0x80 | newest + age for age in (3, 2, 1, 0))
    return post + http + b"".join(fields) + trailers, post + http + indexed


def _text(value: str) -> bytes:
    data = value.encode()
    if len(data) > 126:
        raise ValueError(f"{value!r} is too long for a header here: {len(data)} bytes, at most 126")
    return bytes((len(data),)) + data
