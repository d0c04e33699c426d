"""Load by other programs while something is measured.

Source: proc(5), /proc/stat: time of each core in user, nice, system, idle, iowait, irq, softirq,
steal.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

_STAT = Path("/proc/stat")
_BUSY = slice(0, 3), slice(5, 7)
_STEAL = 7
BUSY_SHARE = 0.05
"""Share of the cores used by other processes above which the report says so."""


@dataclass(frozen=True)
class Interference:
    """Use of our cores by others. None where this system does not tell.

    Attributes:
        load_before: Load average of the last minute when the measurement began.
        load_after: When it ended; the measurement's own threads count.
        others: Cores that other processes kept busy on average.
        stolen: Cores that a hypervisor gave to other guests on average.
        cores: How many cores there are to share.
    """

    load_before: float
    load_after: float
    others: float | None
    stolen: float | None
    cores: int

    @property
    def busy(self) -> bool:
        """Tells whether latencies are doubtful because of it."""
        if self.others is None or self.stolen is None:
            return self.load_before > 0.5 * self.cores
        return self.others + self.stolen > BUSY_SHARE * self.cores


@dataclass(frozen=True)
class _Clock:
    wall: float
    own: float
    busy: float | None
    stolen: float | None


class InterferenceWatch:
    """Starts watching when it is made."""

    def __init__(self) -> None:
        self._cores = os.sched_getaffinity(0)
        self._load, self._start = os.getloadavg()[0], self._now()

    def read(self) -> Interference:
        """Returns the load since the start."""
        start, now = self._start, self._now()
        wall, others, stolen = max(now.wall - start.wall, 1e-9), None, None
        if None not in (start.busy, now.busy, start.stolen, now.stolen):
            busy = (now.busy or 0) - (start.busy or 0)
            others = max(0.0, busy - (now.own - start.own)) / wall
            stolen = ((now.stolen or 0) - (start.stolen or 0)) / wall
        return Interference(self._load, os.getloadavg()[0], others, stolen, len(self._cores))

    def _now(self) -> _Clock:
        """Seconds."""
        rows = _core_times(_STAT, self._cores)
        tick = os.sysconf("SC_CLK_TCK")
        busy = sum(sum(sum(row[part]) for part in _BUSY) for row in rows) / tick
        stolen = sum(row[_STEAL] for row in rows) / tick
        known = len(rows) == len(self._cores) and any(map(sum, rows))
        return _Clock(
            time.perf_counter(),
            sum(os.times()[:4]),  # its finished children are the measurement too
            busy if known else None,
            stolen if known else None,
        )


def _core_times(path: Path, cores: set[int]) -> list[list[int]]:
    """Clock ticks of each of `cores`, by kind; fewer rows where the file does not tell."""
    names = {f"cpu{core}" for core in cores}
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
        times = [[int(n) for n in line[1:]] for line in lines if line and line[0] in names]
    except (OSError, ValueError):
        return []
    return [row for row in times if len(row) > _STEAL]
