from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from vit_edge.runtime.tools.measure.rounds import Series
from vit_edge.runtime.tools.measure.statistics import (
    Estimate,
    interleaved_ratio,
    percentiles,
    separate_ratio,
    throughput,
)

ROUNDS = 12


def series(rounds: NDArray[np.float64]) -> Series:
    return Series(tuple(np.asarray(times, np.float64) for times in rounds), cores=1.0)


def drifting(generator: np.random.Generator, scale: NDArray[np.float64]) -> Series:
    """100 calls a round, each 2 % apart, around the round's own level."""
    return series(scale[:, None] * (1 + 0.02 * generator.standard_normal((ROUNDS, 100))))


def test_percentiles_are_those_of_all_calls() -> None:
    times = np.random.default_rng(0).gamma(2.0, 3.0, (ROUNDS, 300))
    found = percentiles(series(times), (50, 90, 99))
    assert [e.value for e in found] == list(np.sort(times, axis=None)[[1799, 3239, 3563]])
    assert all(e.low <= e.value <= e.high for e in found)


def test_long_rounds_are_thinned_without_moving_the_interval() -> None:
    generator = np.random.default_rng(0)
    scale = 10 * (1 + 0.05 * generator.standard_normal(ROUNDS))
    full = scale[:, None] * (1 + 0.1 * generator.standard_normal((ROUNDS, 20000)))
    (whole,) = percentiles(series(full), (50,))
    (part,) = percentiles(series(full[:, :400]), (50,))
    assert whole.low == pytest.approx(part.low, rel=0.02)
    assert whole.high == pytest.approx(part.high, rel=0.02)


def test_rounds_of_different_length_weigh_by_their_calls() -> None:
    long, short = np.full(6000, 1.0), np.full(400, 5.0)
    (median,) = percentiles(Series((long, short) * 6, 1.0), (50,))
    assert (median.low, median.value, median.high) == (1, 1, 1)


def test_drift_widens_a_latency_but_not_the_ratio_of_interleaved_engines() -> None:
    generator = np.random.default_rng(1)
    level = np.linspace(10, 14, ROUNDS)  # the clock falls while the machine warms up
    slow, fast = drifting(generator, 1.2 * level), drifting(generator, level)
    (latency,) = percentiles(slow, (50,))
    assert latency.high / latency.low > 1.08
    together, apart = interleaved_ratio(slow, fast), separate_ratio(slow, fast)
    assert together.low <= 1.2 <= together.high
    assert together.high - together.low < 0.02
    assert apart.high - apart.low > 5 * (together.high - together.low)


def test_a_disturbed_round_does_not_move_the_ratio() -> None:
    generator = np.random.default_rng(2)
    disturbed = np.ones(ROUNDS)
    disturbed[4] = 30
    ratio = interleaved_ratio(drifting(generator, disturbed), drifting(generator, np.ones(ROUNDS)))
    assert ratio.high < 1.02


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    generator = np.random.default_rng(3)
    held = 0
    for _ in range(200):
        noise = np.exp(0.05 * generator.standard_normal((2, ROUNDS)))
        ratio = interleaved_ratio(
            drifting(generator, 1.5 * noise[0]), drifting(generator, noise[1])
        )
        held += ratio.low <= 1.5 <= ratio.high
    assert held >= 178  # 89 %; single calls drawn instead of rounds would hold in a fifth


def test_throughput_counts_all_the_time() -> None:
    rounds = np.array([[10.0, 10.0, 10.0], [10.0, 10.0, 90.0]])
    assert throughput(series(rounds), batch=7).value == pytest.approx(1e3 * 7 * 6 / 140)


def test_an_estimate_is_said_with_its_interval() -> None:
    assert str(Estimate(1.2345, 1.2, 1.3)) == "1.23 (1.2 to 1.3)"


def test_a_single_round_has_no_width() -> None:
    (median,) = percentiles(series(np.array([[1.0, 2.0, 3.0]])), (50,))
    assert (median.low, median.value, median.high) == (2, 2, 2)
