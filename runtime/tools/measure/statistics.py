"""Confidence intervals (95 %) of measured latencies, by a bootstrap over rounds.

Calls that follow each other are correlated (the same clock, the same disturbance), so that a
bootstrap over single calls would be far too sure of itself. Whole rounds are drawn instead (a block
bootstrap), and two engines' rounds are drawn together where they were interleaved.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap", percentile intervals; Künsch 1989
for blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..display import figures
from .rounds import Series

LEVEL = (2.5, 97.5)
"""The percentiles that bound a 95 % interval."""
_RESAMPLES = 1000
_MOST_PER_ROUND = 500
"""Of longer rounds so many quantiles stand for all calls: it bounds the work, not the precision."""
_SEED = 0


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{figures(self.value)} ({figures(self.low)} to {figures(self.high)})"


def percentiles(series: Series, ranks: Sequence[float]) -> tuple[Estimate, ...]:
    """Summary of the milliseconds of all calls: the least of which at least so many calls are
    not above, as MLPerf's LoadGen counts.
    """
    values = np.percentile(series.calls, ranks, method="inverted_cdf")
    drawn = _drawn_percentiles(series, ranks)
    lows, highs = np.percentile(drawn, LEVEL, axis=0)
    return tuple(_holding(*bounds) for bounds in zip(values, lows, highs, strict=True))


def throughput(series: Series, batch: int) -> Estimate:
    """Samples per second: all samples by the time of all calls."""
    counts = np.array([len(times) for times in series.rounds], np.float64)
    totals = np.array([times.sum() for times in series.rounds])
    draws = _draws(len(counts))
    rates = counts[draws].sum(axis=1) / totals[draws].sum(axis=1)
    return _estimate(1e3 * batch * counts.sum() / totals.sum(), 1e3 * batch * rates)


def interleaved_ratio(above: Series, below: Series) -> Estimate:
    """Median over rounds of the ratio of the two medians of a round; both of one contest."""
    ratios = above.medians / below.medians
    return _estimate(float(np.median(ratios)), np.median(ratios[_draws(len(ratios))], axis=1))


def separate_ratio(above: Series, below: Series) -> Estimate:
    """Ratio of the medians over rounds, of two contests: what changed in between counts in full."""
    first, second = above.medians, below.medians
    drawn = np.median(first[_draws(len(first), 1)], axis=1) / np.median(
        second[_draws(len(second), 2)], axis=1
    )
    return _estimate(float(np.median(first) / np.median(second)), drawn)


def _estimate(value: float, drawn: NDArray[np.float64]) -> Estimate:
    low, high = np.percentile(drawn, LEVEL)
    return _holding(value, low, high)


def _holding(value: float, low: float, high: float) -> Estimate:
    """An interval of few rounds may miss the estimate itself: it is widened to it."""
    return Estimate(float(value), float(min(low, value)), float(max(high, value)))


def _draws(rounds: int, stream: int = 0) -> NDArray[np.int64]:
    """int64 `[resamples, rounds]`: indices of rounds, drawn with replacement."""
    return np.random.default_rng([_SEED, stream]).integers(0, rounds, (_RESAMPLES, rounds))


def _drawn_percentiles(series: Series, ranks: Sequence[float]) -> NDArray[np.float64]:
    """float64 `[resamples, ranks]`: percentiles of the calls of the rounds that were drawn."""
    rounds = [_thinned(times) for times in series.rounds]
    values = np.concatenate(rounds)
    order = np.argsort(values)
    owner = np.repeat(np.arange(len(rounds)), [len(times) for times in rounds])[order]
    share = np.array(
        [len(all_) / len(few) for all_, few in zip(series.rounds, rounds, strict=True)]
    )
    draws = _draws(len(rounds))
    drawn = np.empty((len(draws), len(ranks)))
    for index, draw in enumerate(draws):
        weights = (np.bincount(draw, minlength=len(rounds)) * share)[owner]
        reached = np.cumsum(weights)
        positions = np.asarray(ranks) / 100 * reached[-1]
        drawn[index] = values[order][np.searchsorted(reached, positions)]
    return drawn


def _thinned(times: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(times) <= _MOST_PER_ROUND:
        return times
    middles = (np.arange(_MOST_PER_ROUND) + 0.5) / _MOST_PER_ROUND
    thinned: NDArray[np.float64] = np.quantile(times, middles)
    return thinned
