"""The rule of 1.02, on measurements whose truth is known."""

from __future__ import annotations

import pytest

from vit_edge.runtime.tools.measure.statistics import Estimate, interleaved_ratio
from vit_edge.runtime.tools.tune.trials import counts, overall, shortcoming

from .synthetic import series


@pytest.mark.parametrize(
    ("gain", "reason"),
    [
        (Estimate(1.02, 1.001, 1.04), ""),
        (Estimate(1.5, 1.2, 1.9), ""),
        (Estimate(1.019, 1.018, 1.02), "not 1.02 times as fast"),
        (Estimate(1.1, 1.0, 1.2), "not faster beyond noise"),
        (Estimate(1.1, 0.9, 1.2), "not faster beyond noise"),
        (Estimate(1.0, 0.99, 1.01), "not 1.02 times as fast"),
        (Estimate(0.9, 0.8, 0.99), "slower"),
        (Estimate(0.9, 0.8, 1.01), "not 1.02 times as fast"),
    ],
)
def test_a_variant_counts_from_1_02_with_the_whole_interval_above_1(
    gain: Estimate, reason: str
) -> None:
    assert shortcoming({1: gain}) == reason
    assert counts({1: gain}) == (reason == "")


def test_at_several_batch_sizes_one_is_enough_and_none_may_be_slower() -> None:
    faster, level, slower = (Estimate(v, v - 0.01, v + 0.01) for v in (1.2, 1.0, 0.9))
    assert counts({1: level, 8: faster})
    assert not counts({1: level, 8: level})
    assert not counts({1: faster, 8: slower})
    assert shortcoming({1: faster, 8: slower}) == "slower at batch 8"
    assert shortcoming({1: slower, 8: slower}) == "slower"
    assert overall({1: Estimate(2.0, 2.0, 2.0), 8: Estimate(0.5, 0.5, 0.5)}) == pytest.approx(1)


@pytest.mark.parametrize(
    ("default", "variant", "spread", "counted"),
    [
        (1.03, 1.0, 0.0, True),
        (1.03, 1.0, 0.2, True),  # what both have in common cancels
        (1.01, 1.0, 0.0, False),
        (1.0, 1.0, 0.2, False),
    ],
)
def test_rounds_are_paired(default: float, variant: float, spread: float, counted: bool) -> None:
    gain = interleaved_ratio(series(default, spread), series(variant, spread))
    assert counts({1: gain}) == counted


def test_a_gain_that_few_rounds_show_is_noise() -> None:
    """The median is 1.1, but whole rounds go either way."""
    gain = interleaved_ratio(series(1.1, 0.3), series(1.0, -0.3))
    assert gain.value >= 1.02
    assert not counts({1: gain})
