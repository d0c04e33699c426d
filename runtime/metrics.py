"""Latency of an engine: how long a call takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SETTLE_SECONDS = 0.06
"""Time after a start or a change of engine in which calls do not count."""


@dataclass(frozen=True)
class TimingBudget:
    """Duration of a measurement: at least `runs` calls and `seconds`, at most `most_runs` calls."""

    runs: int
    seconds: float
    most_runs: int = 2000


THOROUGH = TimingBudget(runs=20, seconds=1.0)
QUICK = TimingBudget(runs=5, seconds=0.3)
"""Enough to tell which of several engines is the fastest by far, at an application's first start.
"""


@dataclass(frozen=True)
class Latency:
    """Percentiles in milliseconds over `runs` calls."""

    runs: int
    p50_ms: float
    p90_ms: float
    p99_ms: float


def settle(call: Callable[[], object], seconds: float = SETTLE_SECONDS) -> None:
    """Calls for so long, once at least."""
    start = time.perf_counter()
    call()
    while time.perf_counter() - start < seconds:
        call()


def measure_latency(call: Callable[[], object], effort: TimingBudget = THOROUGH) -> Latency:
    """Times `call`, after it has settled."""
    settle(call)
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < effort.most_runs and (
        len(times) < effort.runs or time.perf_counter() - start < effort.seconds
    ):
        before = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - before))
    p50, p90, p99 = np.percentile(times, [50, 90, 99])
    return Latency(len(times), float(p50), float(p90), float(p99))
