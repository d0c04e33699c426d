"""The rule by which a variant counts as faster than the default.

A variant counts if, at one of the measured batch sizes at least, it is `LEVEL` times as fast as the
default or more and the whole interval of that ratio lies above 1, and if at no other it is as much
slower. It is applied to a contest of its own, after the one that chose whom to look at again: the
best of many is partly luck, and luck does not come twice.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...selection import LEVEL
from ..measure.statistics import Estimate

Gains = Mapping[int, Estimate]
"""A variant's speed in units of the default's, by batch size."""


def is_faster(gain: Estimate) -> bool:
    """Tells whether a variant is faster at one batch size."""
    return gain.value >= LEVEL and gain.low > 1


def is_slower(gain: Estimate) -> bool:
    """Tells whether a variant is slower at one batch size, by as much as would count."""
    return gain.value * LEVEL <= 1 and gain.high < 1


def counts(gains: Gains) -> bool:
    """Tells whether a variant counts."""
    return any(map(is_faster, gains.values())) and not any(map(is_slower, gains.values()))


def overall(gains: Gains) -> float:
    """The geometric mean of the gains, by which variants that count are ranked."""
    return float(np.exp(np.mean([np.log(gain.value) for gain in gains.values()])))


def shortcoming(gains: Gains) -> str:
    """Says why a variant does not count; "" if it does."""
    if counts(gains):
        return ""
    slower = [batch for batch, gain in gains.items() if is_slower(gain)]
    if slower:
        return "slower" if len(slower) == len(gains) else f"slower at batch {slower[0]}"
    if any(gain.value >= LEVEL for gain in gains.values()):
        return "not faster beyond noise"
    return f"not {LEVEL:g} times as fast"
