"""Drift without labels: an observer that keeps the statistics of the last images."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...bundle import Bundle
from ...engine import EngineInfo
from ...errors import InputError
from .judge import StatisticReport, fewest_images, judge
from .statistics import (
    NONE,
    Floats,
    ReferenceStatistics,
    class_labels,
    is_of_output,
    measure,
    read_reference,
    statistic_names,
)
from .words import describe

WINDOW = 128
"""Images that are judged together."""
EVERY = 4
"""Images of which one is measured: the others cost nothing, and a window spans more time."""
ALARM_RATE = 1e-4
"""Windows of images like the reference's, of which one is called drift: one in 10,000."""
_MOST_WINDOW = 1 << 20


@dataclass(frozen=True)
class DriftReport:
    """Judgement of the last images.

    Attributes:
        images: How many are judged.
        window: How many are judged at most.
        reference_images: Images that they are compared with; 0 without any.
        source: Those, in words.
        alarm_rate: Probability of drift being called by chance, at most.
        drift: True if any statistic drifted, or an output was not finite.
        verdict: What drifted and what may be behind it, or why nothing can be told, in words.
        statistics: Each of them.
    """

    images: int
    window: int
    reference_images: int
    source: str
    alarm_rate: float
    drift: bool
    verdict: tuple[str, ...]
    statistics: tuple[StatisticReport, ...]

    def __str__(self) -> str:
        drifted = "drift" if self.drift else "no drift"
        beside = f" beside {self.reference_images} of {self.source}" if self.source else ""
        return "\n".join([f"{drifted}: {self.images} images{beside}", *self.verdict])


class DriftMonitor:
    """Observer that compares the last images with the reference's of their bundle.

    A call costs the statistics of one image in `every`; judging is done when a report is asked for.
    One monitor watches one engine, from any number of threads.

    Args:
        bundle: The engine's bundle, or its path.
        window: Images that are judged together.
        every: Measures one image in so many: those of a window should not be of one moment.
        alarm_rate: Probability of calling drift by chance, for each window.

    Attributes:
        reference: The bundle's statistics; None where it has none.

    Raises:
        InputError: if a number is out of its range.
        BundleError: if the bundle or its statistics are damaged.
    """

    def __init__(
        self,
        bundle: Bundle | str | os.PathLike[str],
        window: int = WINDOW,
        every: int = EVERY,
        alarm_rate: float = ALARM_RATE,
    ) -> None:
        if not isinstance(window, int) or not 1 <= window <= _MOST_WINDOW:
            raise InputError(f"window is {window}, not 1 to {_MOST_WINDOW} images")
        if not isinstance(every, int) or every < 1:
            raise InputError(f"every is {every}: take one image in 1 or more")
        if not 0 < alarm_rate < 1:
            raise InputError(f"alarm_rate is {alarm_rate}, not between 0 and 1")
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        self._spec = opened.manifest.spec
        self._labels = class_labels(self._spec, opened.manifest.labels)
        self.reference = read_reference(opened)
        self._every, self._alarm_rate = every, alarm_rate
        columns = () if self.reference is None else self.reference.columns
        everything = columns == tuple(range(len(statistic_names(self._spec))))
        self._columns = None if everything else np.array(columns, np.intp)
        self._rows = np.zeros((window, len(columns)), np.float32)
        self._seen = self._kept = 0
        self._locks = dict[int, threading.Lock]()  # one that was held at a fork stays so
        self._latest: tuple[int, DriftReport] | None = None

    @property
    def _lock(self) -> threading.Lock:
        """The lock of this process."""
        return self._locks.setdefault(os.getpid(), threading.Lock())

    def on_call(
        self,
        info: EngineInfo,
        frames: Any,
        outputs: Mapping[str, Floats],
        seconds: float,
    ) -> None:
        """See `vit_edge.runtime.observer.Observer`."""
        count = len(frames)
        with self._lock:
            first = -self._seen % self._every
            self._seen += count
        if self.reference is None or first >= count:
            return
        if self._every > 1:
            chosen = slice(first, None, self._every)
            outputs = {name: values[chosen] for name, values in outputs.items()}
            frames = frames[chosen] if isinstance(frames, np.ndarray) else frames
        rows = measure(frames, outputs, self._spec)[-len(self._rows) :]
        if self._columns is not None:
            rows = rows[:, self._columns]
        with self._lock:
            for row in rows:
                self._rows[self._kept % len(self._rows)] = row
                self._kept += 1

    def on_error(self, info: EngineInfo, error: Exception) -> None:
        """See `vit_edge.runtime.observer.Observer`: errors are no images."""

    def report(self) -> DriftReport:
        """Judges the last images; fewer than a window where there are not more yet."""
        with self._lock:
            kept, latest = self._kept, self._latest
            if latest is not None and latest[0] == kept:
                return latest[1]
            rows = self._rows[:kept].copy()
        report = self._judge(rows)
        with self._lock:
            self._latest = (kept, report)
        return report

    def _judge(self, rows: Floats) -> DriftReport:
        reference, window = self.reference, len(self._rows)
        if reference is None:
            return DriftReport(0, window, 0, "", self._alarm_rate, False, (NONE,), ())
        statistics = judge(reference, rows, self._alarm_rate, self._labels)
        remarks, broken = self._remarks(rows, reference)
        return DriftReport(
            len(rows),
            window,
            len(reference.values),
            reference.source,
            self._alarm_rate,
            broken or any(statistic.drifted for statistic in statistics),
            (*describe(statistics, reference, rows), *remarks),
            statistics,
        )

    def _remarks(self, rows: Floats, reference: ReferenceStatistics) -> tuple[list[str], bool]:
        """Says what cannot be told; and whether outputs are broken."""
        remarks, unknown = list[str](), np.isnan(rows)
        of_outputs = np.array([is_of_output(name) for name in reference.names])
        broken = int(unknown[:, of_outputs].any(axis=1).sum())
        if broken:
            remarks.append(
                f"the outputs of {broken} images are not finite: `vit-edge check` tells more"
            )
        blind = int(unknown[:, ~of_outputs].any(axis=1).sum())
        if blind:
            remarks.append(f"{blind} images lie on a GPU: their pixels are not looked at")
        fewest = fewest_images(reference, self._alarm_rate)
        if fewest is None or len(rows) < fewest:
            least = "" if fewest is None else f", {fewest} would be the least"
            remarks.append(
                f"{len(rows)} images beside {len(reference.values)} of the reference are too few "
                f"to tell drift from chance{least}"
            )
        return remarks, broken > 0
