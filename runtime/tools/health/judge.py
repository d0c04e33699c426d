"""Judges a window of images by the reference's, statistic by statistic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .permutation import compare_classes, compare_numbers, log_choose
from .statistics import Floats, ReferenceStatistics, is_class

LEAST_EFFECT = 0.1
"""Change of a mean rank (0 to 1) or of a class's share below which a difference, however certain,
is not called drift."""
NO_LABELS: Mapping[str, Sequence[str]] = {}
_WAYS = 4
"""Ways in which a number can be unusual: lower or higher, narrower or wider."""
_PERCENTILES = (5, 50, 95)


@dataclass(frozen=True)
class Summary:
    """5th, 50th and 95th percentile over images; of a class, its share three times."""

    low: float
    median: float
    high: float


@dataclass(frozen=True)
class StatisticReport:
    """A statistic of the window beside that of the reference.

    Attributes:
        name: The statistic.
        reference, now: Over the images of each.
        shift: Mean rank of the window's images less that of the reference's, from -0.5 to 0.5; of a
            class the change of its share.
        widening: The same of how far from the middle the ranks are; 0 of a class.
        probability: Of a difference as great by chance, in any of the statistics, if the window's
            images and the reference's are of one kind.
        drifted: True if that is below the rate of false alarms, and the effect is not small.
        subject: The class whose share changed the least likely; "" for others.
    """

    name: str
    reference: Summary
    now: Summary
    shift: float
    widening: float
    probability: float
    drifted: bool
    subject: str = ""


def judge(
    reference: ReferenceStatistics,
    rows: Floats,
    alarm_rate: float,
    labels: Mapping[str, Sequence[str]] = NO_LABELS,
) -> tuple[StatisticReport, ...]:
    """Compares each statistic of a window, `[N, len(reference.names)]`, with the reference's.

    All together call drift by chance with a probability of at most `alarm_rate`: each has an equal
    share of it. Numbers that are not finite are left out, and a statistic without any. `labels`
    names the classes of statistics.
    """
    reports = []
    for column, name in enumerate(reference.names):
        own = rows[:, column]
        own = own[np.isfinite(own)]
        if len(own):
            values = reference.values[:, column]
            if is_class(name):
                alone = _compare_classes(name, values, own, labels.get(name, ()))
            else:
                alone = _compare_numbers(name, values, own)
            probability = min(1.0, len(reference.names) * alone.probability)
            effect = max(abs(alone.shift), abs(alone.widening))
            drifted = probability < alarm_rate and effect >= LEAST_EFFECT
            reports.append(replace(alone, probability=probability, drifted=drifted))
    return tuple(reports)


def _compare_numbers(name: str, reference: Floats, window: Floats) -> StatisticReport:
    """The report of a number, its probability that of this statistic alone."""
    compared = compare_numbers(reference, window)
    return StatisticReport(
        name,
        _summary(reference),
        _summary(window),
        compared.shift,
        compared.widening,
        compared.probability,
        drifted=False,
    )


def _compare_classes(
    name: str, reference: Floats, window: Floats, labels: Sequence[str]
) -> StatisticReport:
    """The same of a class."""
    compared = compare_classes(reference, window)
    known = compared.index < len(labels)
    return StatisticReport(
        name,
        Summary(*[compared.reference] * 3),
        Summary(*[compared.share] * 3),
        compared.share - compared.reference,
        0.0,
        compared.probability,
        drifted=False,
        subject=labels[compared.index] if known else str(compared.index),
    )


def _summary(values: NDArray[np.float32]) -> Summary:
    return Summary(*(float(p) for p in np.percentile(values, _PERCENTILES)))


def fewest_images(reference: ReferenceStatistics, alarm_rate: float) -> int | None:
    """The smallest window in which drift can be told from chance at this rate; None if there is
    none, because the reference's images are too few.
    """
    count, tests = len(reference.values), len(reference.names)
    for size in range(1, 1 << 10):
        if math.log(_WAYS * tests) - log_choose(count + size, size) < math.log(alarm_rate):
            return size
    return None
