"""Opens the engines of a bundle together and measures them against each other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...backends.base import DeviceTimed
from ...deployment import Candidate, Deployment, Opened
from ...errors import BackendError, EngineError
from ...files import available_memory
from ...frames import cut, run_frames
from ...manifest import EngineSpec
from ...selection import ROOM
from ..check import Row, checked_row, failed_row
from ..display import say
from ..measure.rounds import EARLY_STOPPING_CALLS, Contest, Schedule, Series, measure_rounds

SECONDS = 3.0
"""How long each engine is measured at each batch size, unless the user says otherwise."""
SINGLE = 1
"""The batch size of MLPerf's SingleStream."""
_DEVICE_CALLS = 20
_REFUSALS = (BackendError, EngineError, MemoryError)


@dataclass(frozen=True)
class Measured:
    """An engine at a batch size, or one that could not be run.

    Attributes:
        candidate: Which engine.
        row: Its accuracy here, and its status.
        rms_error: Of the golden samples, the largest of the outputs.
        batch: Images in a call; None where nothing was measured.
        series: Milliseconds of the calls, end to end: host memory to scores in host memory.
        device_ms: Median time on the device alone, where the session can tell.
        group: Those of one group ran in the same interleaved rounds.
    """

    candidate: Candidate
    row: Row
    rms_error: float | None = None
    batch: int | None = None
    series: Series | None = None
    device_ms: float | None = None
    group: int | None = None


def schedule_for(batch: int, seconds: float) -> Schedule:
    """A single stream is judged by its p90, which needs calls; a batch by its throughput."""
    return Schedule(seconds, EARLY_STOPPING_CALLS if batch == SINGLE else 1)


def hold_contest(
    deployment: Deployment,
    candidates: Sequence[Candidate],
    batches: Sequence[int],
    schedule: Callable[[int], Schedule],
) -> list[Measured]:
    """Measures `candidates` in interleaved rounds, all open at once where memory allows it; else in
    several groups, one after the other. `schedule` tells how long at each batch size.

    Returns them in the order of `candidates`, then of `batches`.
    """
    golden, spec = deployment.golden, deployment.bundle.manifest.spec
    measurements: list[Measured] = []
    waiting, group = list(candidates), 0
    while waiting:
        with ExitStack() as stack:
            opened, waiting, failed = _open_group(waiting, deployment, stack)
            measurements += [Measured(candidate, row) for candidate, row in failed]
            for batch in batches:
                frames = np.resize(golden.images, (batch, *spec.image_shape))
                measured = _measure(opened, deployment, frames, schedule(batch), group)
                measurements += measured
                working = {m.candidate for m in measured if m.series is not None}
                opened = [o for o in opened if o.candidate in working]
        group += 1
    return sorted(measurements, key=lambda m: (candidates.index(m.candidate), m.batch or 0))


def _open_group(
    waiting: Sequence[Candidate], deployment: Deployment, stack: ExitStack
) -> tuple[list[Opened], list[Candidate], list[tuple[Candidate, Row]]]:
    """Opens as many as memory holds: the opened, those left for another group, those that failed.

    What fails beside others is left, because it may only be short of memory; what fails alone
    failed.
    """
    opened: list[Opened] = []
    left: list[Candidate] = []
    failed: list[tuple[Candidate, Row]] = []
    for candidate in waiting:
        if opened and ROOM * deployment.size(candidate) > available_memory():
            left.append(candidate)
            continue
        say(f"opening and checking {candidate} ...")
        try:
            opened.append(deployment.open_checked(candidate))
        except _REFUSALS as error:
            if opened:
                left.append(candidate)
            else:
                failed.append((candidate, failed_row(candidate, str(error) or "out of memory")))
        else:
            stack.callback(opened[-1].session.close)
    return opened, left, failed


def _measure(
    opened: Sequence[Opened],
    deployment: Deployment,
    frames: NDArray[np.uint8],
    schedule: Schedule,
    group: int,
) -> list[Measured]:
    batch, spec = len(frames), deployment.bundle.manifest.spec
    calls = {o.candidate: _call(o, spec, frames) for o in opened}
    say(f"measuring {len(opened)} engines at batch {batch}, {schedule.rounds} rounds ...")
    contest: Contest[Candidate] = measure_rounds(calls, schedule, say_time_left())
    measurements = []
    for o in opened:
        error = contest.failures.get(o.candidate)
        if error is not None:
            measurements.append(Measured(o.candidate, failed_row(o.candidate, error)))
            continue
        series = contest.series[o.candidate]
        device = _device_time(o, spec, frames)
        row = checked_row(o, deployment)
        error_here = max(one.rms_error for one in o.metrics.values())
        measurements.append(Measured(o.candidate, row, error_here, batch, series, device, group))
    return measurements


def _call(opened: Opened, spec: EngineSpec, frames: NDArray[np.uint8]) -> Callable[[], object]:
    return lambda: run_frames(opened.session, spec, frames)


def _device_time(opened: Opened, spec: EngineSpec, frames: NDArray[np.uint8]) -> float | None:
    """Milliseconds on the device for all parts of the batch, where the session can tell."""
    session = opened.session
    if not isinstance(session, DeviceTimed):
        return None
    parts = list(cut(frames, spec))
    times = [sum(session.device_time_ms(p.images) for p in parts) for _ in range(_DEVICE_CALLS)]
    return float(np.median(times))


def say_time_left() -> Callable[[int, int], None]:
    """After the first round, how long the rest will take, if that is long."""
    start = time.perf_counter()

    def progress(done: int, rounds: int) -> None:
        left = (time.perf_counter() - start) * (rounds - 1)
        if done == 1 and left > 5:
            say(f"  about {left:.0f} s to go")

    return progress
