"""How busy the machine's processors and memory are, from /proc."""

import threading
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CpuMeter", "CpuUse"]

KIB = 1024
IDLE, IOWAIT, GUEST = 3, 4, 8
"""Columns of /proc/stat; from GUEST on they are counted in user and nice already (man 5 proc_stat)."""


@dataclass(frozen=True, slots=True)
class CpuUse:
    """The processors' share of time at work (0 to 1), and the machine's memory."""

    utilization: float
    memory_total_bytes: int
    memory_used_bytes: int


class CpuMeter:
    """Reads /proc; the utilization is that since the reading before. Any thread."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._lock = threading.Lock()
        self._utilization = 0.0
        self._before = self._jiffies()

    def read(self) -> CpuUse | None:
        """The use of the machine; None where /proc does not tell."""
        with self._lock:
            now = self._jiffies()
            if now is None or self._before is None:
                return None
            busy, total = now[0] - self._before[0], now[1] - self._before[1]
            if total > 0:  # else too little time has gone by, and what was found last is still true
                self._utilization = min(max(busy / total, 0.0), 1.0)
                self._before = now
            memory = self._memory()
            return CpuUse(self._utilization, *memory) if memory else None

    def _jiffies(self) -> tuple[int, int] | None:
        """Time at work and all time of all processors since the machine started."""
        try:
            with (self._proc / "stat").open(encoding="ascii") as file:
                columns = [int(column) for column in file.readline().split()[1:]][:GUEST]
        except (OSError, ValueError):
            return None
        if len(columns) <= IOWAIT:
            return None
        total = sum(columns)
        return total - columns[IDLE] - columns[IOWAIT], total

    def _memory(self) -> tuple[int, int] | None:
        """Bytes in all, and those that are not available."""
        try:
            lines = (self._proc / "meminfo").read_text(encoding="ascii").splitlines()
            found = {name: int(value.split()[0]) * KIB for name, _, value in (line.partition(":") for line in lines)}
            return found["MemTotal"], found["MemTotal"] - found["MemAvailable"]
        except (OSError, ValueError, KeyError, IndexError):
            return None
