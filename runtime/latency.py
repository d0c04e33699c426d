"""Latency of a callable, as a distribution."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

MIN_RUNS, MIN_SECONDS, MAX_RUNS = 20, 1.0, 2000
WARM_UP_RUNS = 3


@dataclass(frozen=True)
class Latency:
    """Percentiles in milliseconds over `runs` calls."""

    runs: int
    p50_ms: float
    p90_ms: float
    p99_ms: float


def measure_latency(call: Callable[[], object]) -> Latency:
    """Times `call`, after a warm-up, at least `MIN_RUNS` times and `MIN_SECONDS` long."""
    for _ in range(WARM_UP_RUNS):
        call()
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < MAX_RUNS and (
        len(times) < MIN_RUNS or time.perf_counter() - start < MIN_SECONDS
    ):
        before = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - before))
    p50, p90, p99 = np.percentile(times, [50, 90, 99])
    return Latency(len(times), float(p50), float(p90), float(p99))
