"""The probability of a window is that of counting, far into the tail and with few images."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from vit_edge.runtime.tools.health.permutation import (
    compare_classes,
    compare_numbers,
    midranks,
    two_sided,
    upper_tail,
)


@pytest.mark.parametrize(
    ("reference", "window", "shift"),
    [(6, 5, 1.5), (12, 8, 2.0), (8, 64, 3.0), (30, 20, 1.2), (100, 40, 0.9), (100, 40, 0.1)],
)
def test_shifts_of_untied_numbers_are_as_the_exact_rank_test_says(
    reference: int, window: int, shift: float
) -> None:
    generator = np.random.default_rng(reference)
    old = generator.normal(size=reference)
    new = generator.normal(size=window) + shift
    ranks, inside = midranks(np.r_[old, new]), np.arange(reference + window) >= reference
    exact = stats.mannwhitneyu(new, old, method="exact").pvalue
    assert two_sided(ranks, inside) == pytest.approx(exact, rel=0.12)
    assert two_sided(-ranks, inside) == pytest.approx(exact, rel=0.12)


@pytest.mark.parametrize(
    ("count", "marked", "window", "own"),
    [(664, 4, 64, 3), (664, 40, 64, 14), (256, 100, 128, 80), (700, 20, 128, 20), (60, 30, 30, 22)],
)
def test_heavy_ties_are_called_unlikely_no_sooner_than_they_are(
    count: int, marked: int, window: int, own: int
) -> None:
    """Numbers of two values: exactly hypergeometric."""
    values, inside = np.zeros(count), np.zeros(count, bool)
    values[:marked] = 1
    inside[:own] = inside[marked : marked + window - own] = True
    exact = min(1.0, 2 * stats.hypergeom.sf(own - 1, count, marked, window))
    assert exact * 0.9 < two_sided(midranks(values), inside) < exact * 4


def test_the_greatest_sum_is_as_unlikely_as_one_choice() -> None:
    scores = midranks(np.arange(16.0))
    inside = np.arange(16) >= 10
    assert two_sided(scores, inside) == pytest.approx(2 / 8008, rel=0.01)


def test_what_cannot_differ_does_not() -> None:
    inside = np.arange(20) >= 12
    assert two_sided(midranks(np.ones(20)), inside) == 1.0
    assert upper_tail(np.arange(5.0), 0, 0.0) == upper_tail(np.arange(5.0), 5, 10.0) == 1.0
    same = compare_numbers(np.arange(100.0), np.arange(100.0))
    assert (same.shift, same.probability) == (0.0, 1.0)


def test_direction_and_width_have_signs() -> None:
    generator = np.random.default_rng(0)
    reference = generator.normal(size=300)
    assert compare_numbers(reference, reference[:100] + 2).shift > 0.3
    assert compare_numbers(reference, reference[:100] - 2).shift < -0.3
    wide, narrow = (compare_numbers(reference, reference[:100] * k) for k in (3, 1 / 3))
    assert wide.widening > 0.2 > -0.2 > narrow.widening
    assert max(wide.probability, narrow.probability) < 1e-6


def test_false_alarms_come_as_often_as_they_are_said_to() -> None:
    """Of windows drawn from the same images as the reference, whatever their distribution: counted
    at a rate that can be counted. Skewed, tied and heavy-tailed.
    """
    generator = np.random.default_rng(1)
    for draw in (
        lambda n: generator.exponential(size=n),
        lambda n: generator.poisson(0.3, size=n),
        lambda n: generator.standard_cauchy(size=n),
    ):
        alarms = sum(compare_numbers(draw(40), draw(16)).probability < 0.05 for _ in range(600))
        # Binomial: more than 49 of 600 at 5 % come with a probability of 0.0005.
        assert alarms <= 49


def test_shares_of_classes_are_hypergeometric() -> None:
    reference, window = np.repeat([0, 1, 2], [50, 30, 20]), np.repeat([0, 2], [5, 25])
    change = compare_classes(reference, window)
    assert (change.index, change.share) == (2, pytest.approx(25 / 30))
    assert change.reference == pytest.approx(0.2)
    exact = 3 * 2 * stats.hypergeom.sf(24, 130, 45, 30)
    assert change.probability == pytest.approx(exact, rel=1e-6)


def test_a_class_that_is_gone_is_noticed() -> None:
    change = compare_classes(np.repeat([0, 1], [60, 60]), np.zeros(60, int))
    assert change.probability < 1e-8
    assert compare_classes(np.arange(90) % 3, np.arange(30) % 3).probability == 1.0
