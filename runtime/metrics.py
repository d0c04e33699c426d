"""Latency of an engine: how long a call takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

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
QUICK = TimingBudget(runs=10, seconds=0.12)
"""Enough to find the engine that is the fastest by far, at an application's first start."""
ROUNDS = 10
"""Rounds of a race. The true median of a ratio lies between the second smallest and the second
largest of ten with a probability of 1 - 2 * 11/2^10 = 98 %, however it is distributed."""
_TURN_SECONDS = 0.025
"""Like `SETTLE_SECONDS`, for engines that take turns repeatedly."""
_HOPELESS = 1.5
"""From its second round on, an engine leaves a race if even its best round took more than this
times the fastest's best."""
K = TypeVar("K")


@dataclass(frozen=True)
class Latency:
    """Summary in milliseconds over `runs` calls."""

    runs: int
    p50_ms: float
    p90_ms: float
    p99_ms: float


def settle(call: Callable[[], object], seconds: float = SETTLE_SECONDS) -> None:
    """Repeats `call` for that time, at least once."""
    start = time.perf_counter()
    call()
    while time.perf_counter() - start < seconds:
        call()


def measure_latency(
    call: Callable[[], object],
    effort: TimingBudget = THOROUGH,
    settle_seconds: float = SETTLE_SECONDS,
) -> Latency:
    """Times `call`, after it has settled."""
    settle(call, settle_seconds)
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


@dataclass(frozen=True)
class Placing:
    """Median latency in a race and its interval relative to the fastest, in milliseconds."""

    p50_ms: float
    low_ms: float
    high_ms: float


def race(calls: Mapping[K, Callable[[], object]], budget: TimingBudget) -> dict[K, Placing]:
    """Times calls side by side, in rounds, so that other load on the machine affects all alike.

    The order rotates with each round. Latencies are computed relative to the fastest, round by
    round, which cancels what affected all of them.
    """
    rounds = max(1, min(ROUNDS, budget.runs))
    share = TimingBudget(
        -(-budget.runs // rounds), budget.seconds / rounds, -(-budget.most_runs // rounds)
    )
    times: dict[K, list[float]] = {key: [] for key in calls}
    racing = list(calls)
    for turn in range(rounds):
        start = turn % len(racing)
        for key in (*racing[start:], *racing[:start]):
            latency = measure_latency(calls[key], share, _TURN_SECONDS)
            times[key].append(latency.p50_ms)
        if turn > 0:
            limit = _HOPELESS * min(min(times[key]) for key in racing)
            racing = [key for key in racing if min(times[key]) <= limit]
    first = min(racing, key=lambda key: float(np.median(times[key])))
    best = float(np.median(times[first]))
    placings = {}
    for key, own in times.items():
        ratios = np.sort(best * np.array(own) / np.array(times[first][: len(own)]))
        inner = ratios[1:-1] if len(ratios) >= ROUNDS else ratios
        placings[key] = Placing(float(np.median(ratios)), float(inner[0]), float(inner[-1]))
    return placings
