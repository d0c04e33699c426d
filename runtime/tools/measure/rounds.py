"""Times several calls against each other, in interleaved rounds.

In every round each contestant has one slot, and the order rotates from round to round, so that what
else the machine does (other processes, heat, clock) meets all alike. A slot begins with calls that
do not count: after a change of engine the first ones find cold caches and take several times as
long, and ONNX Runtime's threads go on spinning on the cores for tens of milliseconds after their
last call.

Source: MLPerf Inference rules, "Scenarios" and "Constraints": SingleStream has one query in flight
and the next is issued when it is answered; a minimum duration and a minimum count both hold.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ...errors import BackendError, EngineError
from ...metrics import SETTLE_SECONDS, settle

SINGLE_STREAM, OFFLINE = "SingleStream", "Offline"
"""MLPerf's scenarios: one sample in flight, judged by the p90 of its latency; all samples at hand,
judged by samples per second.
"""
MLPERF_SECONDS = 600.0
"""MLPerf's minimum duration for datacentre and edge results."""
EARLY_STOPPING_CALLS = 64
"""The fewest calls from which MLPerf's early stopping gives a p90 (99 % confidence)."""

Call = Callable[[], object]
Key = TypeVar("Key")


@dataclass(frozen=True)
class Schedule:
    """Duration and rounds of each contestant's measurement.

    Attributes:
        seconds: The least time of the calls that count, over all rounds.
        calls: The least number of calls that count, over all rounds.
        rounds: Into how many rounds they are split.
        settle_s: How long a slot runs before calls count; one call at least.
    """

    seconds: float
    calls: int
    rounds: int = 12
    settle_s: float = SETTLE_SECONDS

    @property
    def slot_s(self) -> float:
        return self.seconds / self.rounds

    @property
    def slot_calls(self) -> int:
        return max(1, ceil(self.calls / self.rounds))


@dataclass(frozen=True)
class Series:
    """Measurements of one contestant.

    Attributes:
        rounds: For each round float64 `[calls]`, milliseconds of each call in order.
        cores: How many cores this process kept busy meanwhile, on average.
    """

    rounds: tuple[NDArray[np.float64], ...]
    cores: float

    @property
    def calls(self) -> NDArray[np.float64]:
        """float64 `[calls of all rounds]`, milliseconds."""
        return np.concatenate(self.rounds)

    @property
    def medians(self) -> NDArray[np.float64]:
        """float64 `[rounds]`, the median of each round in milliseconds."""
        return np.array([np.median(times) for times in self.rounds])


@dataclass(frozen=True)
class Contest(Generic[Key]):
    """Series of those that finished, and why the others did not."""

    series: dict[Key, Series]
    failures: dict[Key, str]


@dataclass
class _Slots:
    """Collects one contestant's rounds."""

    call: Call
    rounds: list[NDArray[np.float64]] = field(default_factory=list)
    cpu_s: float = 0.0
    wall_s: float = 0.0

    def run(self, schedule: Schedule) -> None:
        settle(self.call, schedule.settle_s)
        cpu, wall = time.process_time(), time.perf_counter()
        self.rounds.append(_time_calls(self.call, schedule.slot_s, schedule.slot_calls))
        self.cpu_s += time.process_time() - cpu
        self.wall_s += time.perf_counter() - wall

    def series(self) -> Series:
        return Series(tuple(self.rounds), self.cpu_s / self.wall_s)


def measure_rounds(
    calls: Mapping[Key, Call], schedule: Schedule, progress: Callable[[int, int], None]
) -> Contest[Key]:
    """Measures `calls` in interleaved rounds.

    Args:
        calls: What is timed, by name. One that raises BackendError or EngineError leaves the
            contest.
        schedule: How long.
        progress: Is told of the rounds done and of all, after each round.
    """
    slots = {key: _Slots(call) for key, call in calls.items()}
    failures: dict[Key, str] = {}
    for done in range(schedule.rounds):
        for key in _rotated(list(slots), done):
            try:
                slots[key].run(schedule)
            except (BackendError, EngineError) as error:
                failures[key] = str(error)
                del slots[key]
        progress(done + 1, schedule.rounds)
    return Contest({key: slot.series() for key, slot in slots.items()}, failures)


def _rotated(keys: list[Key], by: int) -> Iterator[Key]:
    """Each starts some rounds; every second turn runs backwards, so that none always follows the
    same neighbour.
    """
    if not keys:
        return
    turn, shift = divmod(by, len(keys))
    order = keys[shift:] + keys[:shift]
    yield from order if turn % 2 == 0 else reversed(order)


def _time_calls(call: Call, seconds: float, least: int) -> NDArray[np.float64]:
    """Milliseconds of each call, until both minimums hold."""
    times: list[int] = []
    start = now = time.perf_counter_ns()
    end = start + int(1e9 * seconds)
    while now < end or len(times) < least:
        before = time.perf_counter_ns()
        call()
        now = time.perf_counter_ns()
        times.append(now - before)
    return np.array(times, np.float64) / 1e6
