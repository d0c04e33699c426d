"""Statistics of rounds: medians with intervals, and the lead of one contender over another.

Calls within a round are not independent, rounds nearly are: intervals come from drawing rounds
again (bootstrap; B. Efron, 1979). All contenders' rounds of one index were measured within the same
seconds, so that they are drawn together: the machine's other work cancels in a ratio.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_DRAWS, _SEED = 2000, 0
_TAILS = (2.5, 97.5)

Rounds = Sequence[Sequence[float]]
"""Milliseconds of every call, round by round."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds: the median of the rounds' medians with its 95 % interval, and the 90th
    percentile of all calls.
    """

    p50_ms: float
    low_ms: float
    high_ms: float
    p90_ms: float


@dataclass(frozen=True)
class Lead:
    """Ratio of speeds, with a 95 % interval."""

    ratio: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        if self.low > 1:
            return "ahead"
        return "behind" if self.high < 1 else "level"


def latency(rounds: Rounds) -> Latency:
    middle = medians(rounds)
    low, high = np.percentile(np.median(_drawn(middle), axis=1), _TAILS)
    calls = np.concatenate([np.asarray(r) for r in rounds])
    p50, p90 = float(np.median(middle)), float(np.percentile(calls, 90))
    return Latency(p50, float(low), float(high), p90)


def medians(rounds: Rounds) -> list[float]:
    """Returns the median of each round."""
    return [float(np.median(calls)) for calls in rounds]


def lead(ours: Sequence[float], theirs: Sequence[float]) -> Lead:
    """Computes the lead of `ours` over `theirs`: medians of rounds measured side by side.

    Raises:
        ValueError: if one has more rounds than the other.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} rounds cannot be compared with {len(theirs)}")
    ratios = np.median(_drawn(theirs), axis=1) / np.median(_drawn(ours), axis=1)
    low, high = np.percentile(ratios, _TAILS)
    return Lead(float(np.median(theirs) / np.median(ours)), float(low), float(high))


def _drawn(rounds: Sequence[float]) -> NDArray[np.float64]:
    """Draws rounds `[draws, rounds]`; the same for everybody with as many rounds."""
    count = len(rounds)
    chosen = np.random.default_rng(_SEED).integers(0, count, (_DRAWS, count))
    drawn: NDArray[np.float64] = np.asarray(rounds, np.float64)[chosen]
    return drawn
