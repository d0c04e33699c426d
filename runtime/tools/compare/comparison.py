"""The measurements side by side: what `compare` prints and its reports hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from math import isfinite
from typing import Any

import numpy as np

from ..check import OK, Row
from ..measure.interference import Interference
from ..measure.machine import Machine
from ..measure.rounds import OFFLINE, SINGLE_STREAM, Series
from ..measure.statistics import (
    Estimate,
    interleaved_ratio,
    percentiles,
    separate_ratio,
    throughput,
)
from ..profile.work import NotFaster
from .contest import SINGLE, Measured

REPORT_VERSION = 1
REFERENCE = "fp32"
"""Precision that speed-up is relative to, on the same backend."""
QUANTILES = tuple(np.round(np.arange(0.5, 100, 1.0), 1))
"""The percentiles by which a report knows a distribution."""


@dataclass(frozen=True)
class ComparedRow(Row):
    """A row of `compare`. Latencies are end to end; intervals are 95 % confidence intervals.

    Attributes:
        scenario: MLPerf's: "SingleStream" for one image in flight, "Offline" for a batch.
        calls: How many were timed, over all rounds.
        mean_ms: Of all calls.
        p50_interval: Milliseconds (low, high); likewise the next two.
        images_per_s_interval: Images per second (low, high).
        speedup: How many times as fast as fp32 on the same backend.
        to_fastest: How many times the latency of the fastest that is right, at this batch size.
        rms_error: Of the golden samples here, relative, the largest of the outputs; None if it is
            not finite.
        device_ms: Median on the device alone; None where the backend cannot tell.
        cores: CPU cores that were busy meanwhile, on average.
        group: Engines with the same number were measured in the same rounds.
    """

    scenario: str | None = None
    calls: int | None = None
    mean_ms: float | None = None
    p50_interval: tuple[float, float] | None = None
    p90_interval: tuple[float, float] | None = None
    p99_interval: tuple[float, float] | None = None
    images_per_s_interval: tuple[float, float] | None = None
    speedup: Estimate | None = None
    to_fastest: Estimate | None = None
    rms_error: float | None = None
    device_ms: float | None = None
    cores: float | None = None
    group: int | None = None

    def __post_init__(self) -> None:
        times = (self.p50_ms, self.p90_ms, self.p99_ms, self.mean_ms, self.images_per_s)
        if any(value is not None and value <= 0 for value in times):
            raise ValueError("latencies and rates are above 0")
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"a batch of {self.batch}")
        intervals = (
            self.p50_interval, self.p90_interval, self.p99_interval, self.images_per_s_interval
        )  # fmt: skip
        if any(interval is not None and len(interval) != 2 for interval in intervals):
            raise ValueError("an interval has two ends")


@dataclass(frozen=True)
class Distribution:
    """The latencies of a row.

    Attributes:
        quantiles_ms: At `QUANTILES`.
        round_medians_ms: One for each round.
    """

    precision: str
    backend: str
    batch: int
    quantiles_ms: tuple[float, ...]
    round_medians_ms: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.quantiles_ms) != len(QUANTILES):
            raise ValueError(f"{len(self.quantiles_ms)} quantiles, not {len(QUANTILES)}")


@dataclass(frozen=True)
class LayerSensitivity:
    """Loss of a model's outputs when only this layer is quantised.

    Attributes:
        unit: The layer.
        error: Root mean square, relative to what tells images apart.
        divergence: Kullback-Leibler, in nats.
        cost: Multiplications for an image.
    """

    unit: str
    error: float
    divergence: float
    cost: float


@dataclass(frozen=True)
class Recommendation:
    """The engine to use here; the names are None where nothing is right."""

    precision: str | None
    backend: str | None
    why: str


@dataclass(frozen=True)
class Comparison:
    """All of it.

    Attributes:
        sensitivities: Known where the export's report lies beside the bundle.
        devices: What each backend ran on, by its name; older reports do not have it.
        not_faster: The precisions that are not faster than a higher one; likewise.
    """

    version: int
    name: str
    bundle: str
    made: str
    rows: tuple[ComparedRow, ...]
    not_run: dict[str, str]
    recommendation: Recommendation
    notes: tuple[str, ...]
    distributions: tuple[Distribution, ...]
    sensitivities: dict[str, tuple[LayerSensitivity, ...]]
    machine: Machine
    interference: Interference
    seconds: float
    devices: dict[str, str] = field(default_factory=dict)
    not_faster: tuple[NotFaster, ...] = ()

    @property
    def good(self) -> bool:
        return all(row.status == OK for row in self.rows)


def compare_rows(measured: Sequence[Measured]) -> Iterator[ComparedRow]:
    """A row for each measurement."""
    for m in measured:
        if m.series is None or m.batch is None:
            yield ComparedRow(**_fields(m.row))
        else:
            yield _row(m, m.series, m.batch, measured)


def _fields(row: Row) -> dict[str, Any]:
    return {one.name: getattr(row, one.name) for one in fields(Row)}


def _row(m: Measured, series: Series, batch: int, measured: Sequence[Measured]) -> ComparedRow:
    p50, p90, p99 = percentiles(series, (50, 90, 99))
    rate = throughput(series, batch)
    reference, fastest = _reference(m, measured), _fastest(batch, measured)
    known = _fields(m.row) | {
        "batch": batch,
        "p50_ms": p50.value,
        "p90_ms": p90.value,
        "p99_ms": p99.value,
        "images_per_s": rate.value,
    }
    return ComparedRow(
        **known,
        scenario=SINGLE_STREAM if batch == SINGLE else OFFLINE,
        calls=len(series.calls),
        mean_ms=float(series.calls.mean()),
        p50_interval=(p50.low, p50.high),
        p90_interval=(p90.low, p90.high),
        p99_interval=(p99.low, p99.high),
        images_per_s_interval=(rate.low, rate.high),
        speedup=None if reference is None else ratio(reference, m),
        to_fastest=None if fastest is None else ratio(m, fastest),
        rms_error=m.rms_error if m.rms_error is not None and isfinite(m.rms_error) else None,
        device_ms=m.device_ms,
        cores=series.cores,
        group=m.group,
    )


def _reference(m: Measured, measured: Sequence[Measured]) -> Measured | None:
    """The same backend and batch size in fp32."""
    for other in measured:
        same = other.candidate.backend == m.candidate.backend and other.batch == m.batch
        if same and other.series is not None and other.candidate.precision == REFERENCE:
            return other
    return None


def _fastest(batch: int, measured: Sequence[Measured]) -> Measured | None:
    """Of those that are right, by the median over rounds."""
    right = [m for m in measured if m.batch == batch and m.series and m.row.status == OK]
    return min(right, key=_median, default=None)


def _median(m: Measured) -> float:
    assert m.series is not None
    return float(np.median(m.series.medians))


def ratio(above: Measured, below: Measured) -> Estimate:
    """Ratio of the latencies of two that were measured."""
    assert above.series is not None
    assert below.series is not None
    estimate = interleaved_ratio if above.group == below.group else separate_ratio
    return estimate(above.series, below.series)


def distributions(measured: Sequence[Measured]) -> Iterator[Distribution]:
    """The latencies of all that were measured."""
    for m in measured:
        if m.series is not None and m.batch is not None:
            yield Distribution(
                m.candidate.precision,
                m.candidate.backend.name,
                m.batch,
                tuple(map(float, np.percentile(m.series.calls, QUANTILES))),
                tuple(map(float, m.series.medians)),
            )
