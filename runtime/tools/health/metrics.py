"""Metrics of an engine by OpenTelemetry: the application chooses where they go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vit_edge import __version__

from ...engine import EngineInfo
from ...errors import BackendError, install_command
from .drift import DriftMonitor, DriftReport
from .judge import StatisticReport
from .statistics import Floats

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

BOUNDARIES = (
    0.0005, 0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.15,
    0.2, 0.3, 0.5, 1.0, 2.0, 5.0,
)  # fmt: skip
"""Seconds between the histogram's buckets: a call takes from half a millisecond to seconds."""
BACKEND, PRECISION, DEVICE = "vit_edge.backend", "vit_edge.precision", "vit_edge.device"
ERROR, STATISTIC = "error.type", "vit_edge.statistic"


class HealthMetrics:
    """Observer that gives an engine's calls, images, errors and drift to OpenTelemetry.

    One may watch several engines, which the attributes tell apart; a monitor watches one.

    | instrument | kind | of |
    | --- | --- | --- |
    | `vit_edge.call.duration` | histogram, s | calls and items of streams |
    | `vit_edge.images` | counter | images that were answered |
    | `vit_edge.errors` | counter | exceptions, by `error.type` |
    | `vit_edge.drift.verdict` | gauge | 1 where one drifted or is not finite, else 0 |
    | `vit_edge.drift.images` | gauge | images that are judged |
    | `vit_edge.drift.alarm` | gauge | 1 where a statistic drifted, else 0 |
    | `vit_edge.drift.shift` | gauge | change of its mean rank, of a class's share; 0 is none |
    | `vit_edge.drift.median` | gauge | its median over the window |

    Args:
        monitor: Sees the calls too; its judgement is what the gauges show, made when they are read.
        provider: Where the metrics go; None: OpenTelemetry's global one.

    Raises:
        BackendError: if OpenTelemetry is not installed.
    """

    def __init__(
        self, monitor: DriftMonitor | None = None, provider: MeterProvider | None = None
    ) -> None:
        try:
            from opentelemetry.metrics import get_meter_provider
        except ImportError:
            raise BackendError(f"metrics need OpenTelemetry: {install_command('health')}") from None
        self._monitor = monitor
        self._attributes = dict[tuple[str, str, str], dict[str, str]]()
        self._last: EngineInfo | None = None
        meter = (provider or get_meter_provider()).get_meter("vit_edge", __version__)
        self._duration = meter.create_histogram(
            "vit_edge.call.duration",
            unit="s",
            description="How long calls of the engine took",
            explicit_bucket_boundaries_advisory=BOUNDARIES,
        )
        self._images = meter.create_counter(
            "vit_edge.images", unit="{image}", description="Images that the engine answered"
        )
        self._errors = meter.create_counter(
            "vit_edge.errors", unit="{error}", description="Exceptions of calls, by their class"
        )
        if monitor is not None:
            for name, about, whole in (
                ("verdict", "1 where anything drifted, or outputs are not finite", _verdict),
                ("images", "Images that are judged for drift", _judged),
            ):
                meter.create_observable_gauge(
                    f"vit_edge.drift.{name}", [self._reader(whole)], description=about
                )
            for name, about, read in (
                ("alarm", "1 where a statistic drifted from the reference's", _alarm),
                ("shift", "Change of a statistic's mean rank, or of a class's share", _shift),
                ("median", "Median of a statistic over the last images", _median),
            ):
                meter.create_observable_gauge(
                    f"vit_edge.drift.{name}", [self._reader_of_each(read)], description=about
                )

    def on_call(
        self, info: EngineInfo, frames: Any, outputs: Mapping[str, Floats], seconds: float
    ) -> None:
        """See `vit_edge.runtime.observer.Observer`."""
        attributes = self._of(info)
        self._duration.record(seconds, attributes)
        self._images.add(len(frames), attributes)
        if self._monitor is not None:
            self._monitor.on_call(info, frames, outputs, seconds)

    def on_error(self, info: EngineInfo, error: Exception) -> None:
        """See `vit_edge.runtime.observer.Observer`."""
        self._errors.add(1, {**self._of(info), ERROR: type(error).__name__})

    def _of(self, info: EngineInfo) -> dict[str, str]:
        """The attributes of an engine."""
        self._last = info
        key = info.backend, info.precision, info.device
        known = self._attributes.get(key)
        if known is None:
            names = BACKEND, PRECISION, DEVICE
            known = self._attributes[key] = dict(zip(names, key, strict=True))
        return known

    def _reader(
        self, read: Callable[[DriftReport], float]
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        """A callback that gives a number of the judgement."""
        from opentelemetry.metrics import Observation

        def observe(options: CallbackOptions) -> Iterator[Observation]:
            for attributes, report in self._reports():
                yield Observation(read(report), attributes)

        return observe

    def _reader_of_each(
        self, read: Callable[[StatisticReport], float]
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        """A callback that gives a number of each statistic."""
        from opentelemetry.metrics import Observation

        def observe(options: CallbackOptions) -> Iterator[Observation]:
            for attributes, report in self._reports():
                for statistic in report.statistics:
                    yield Observation(read(statistic), {**attributes, STATISTIC: statistic.name})

        return observe

    def _reports(self) -> Iterator[tuple[dict[str, str], DriftReport]]:
        """The judgement and its engine, once there was a call."""
        assert self._monitor is not None  # no gauges without one
        if self._last is not None:
            yield self._of(self._last), self._monitor.report()


def _verdict(report: DriftReport) -> float:
    return int(report.drift)


def _judged(report: DriftReport) -> float:
    return report.images


def _alarm(statistic: StatisticReport) -> float:
    return int(statistic.drifted)


def _shift(statistic: StatisticReport) -> float:
    return statistic.shift


def _median(statistic: StatisticReport) -> float:
    return statistic.now.median
