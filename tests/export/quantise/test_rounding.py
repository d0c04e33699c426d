from __future__ import annotations

import numpy as np
import pytest

from vit_edge.export.quantise import grid as rounding
from vit_edge.export.quantise.grid import (
    INT8_GRID,
    best_range,
    cautious_range,
    fake_quantise,
    representable_scale,
    round_weights,
    weight_scales,
)

RNG = np.random.default_rng(0)


def correlated(rows: int, channels: int) -> np.ndarray:
    mix = RNG.standard_normal((channels, channels))
    return (RNG.standard_normal((rows, channels)) @ mix).astype(np.float32)


@pytest.mark.parametrize("levels", [7, 127])
def test_errors_cancel_in_the_outputs(levels: int) -> None:
    x, weight = correlated(500, 96), RNG.standard_normal((96, 24)).astype(np.float32)
    scales = (np.abs(weight).max(axis=0) / levels).astype(np.float32)
    nearest = fake_quantise(weight, scales)
    rounded = round_weights(weight, scales, x.T.astype(np.float64) @ x / len(x)) * scales
    errors = [((x @ (w - weight)) ** 2).mean() for w in (rounded, nearest)]
    assert errors[0] < 0.7 * errors[1]


def test_integers_stay_on_the_grid_and_near_the_weights() -> None:
    x, weight = correlated(200, 160), RNG.standard_normal((160, 8)).astype(np.float32)
    scales = representable_scale(np.abs(weight).max(axis=0))
    integers = round_weights(weight, scales, x.T.astype(np.float64) @ x / len(x))
    np.testing.assert_array_equal(integers, np.rint(integers))
    assert np.abs(integers).max() <= 127
    assert np.abs(integers - weight / scales).max() < 20


def test_working_in_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = correlated(400, 160), RNG.standard_normal((160, 8)).astype(np.float32)
    scales, moments = np.full(8, 0.2, np.float32), x.T.astype(np.float64) @ x / len(x)
    results = []
    for block in (32, 160):
        monkeypatch.setattr(rounding, "_BLOCK", block)
        results.append(round_weights(weight, scales, moments))
    assert (results[0] == results[1]).mean() > 0.99


def test_channels_that_never_vary_are_rounded_to_the_nearest() -> None:
    weight = RNG.standard_normal((32, 4)).astype(np.float32)
    scales = representable_scale(np.abs(weight).max(axis=0))
    integers = round_weights(weight, scales, np.zeros((32, 32)))
    np.testing.assert_array_equal(integers, INT8_GRID.round(weight / scales))


def test_a_range_follows_what_matters_to_the_outputs() -> None:
    rows = RNG.standard_normal((400, 16)).astype(np.float32)
    rows[:, 0] *= 50
    everything, the_others = np.ones(16, np.float32), np.eye(16, dtype=np.float32)[1]
    assert best_range(rows, everything) > 50
    assert best_range(rows, the_others) < 10


def test_nothing_is_clipped_where_that_gains_little() -> None:
    rows = np.random.default_rng(1).standard_normal((400, 16)).astype(np.float32)
    everything = np.ones(16, np.float32)
    assert cautious_range(rows, everything, 6.0) == pytest.approx(7.2)
    rows[0, 0] = 500  # one token costs all others their precision
    others = everything.copy()
    others[0] = 0
    assert cautious_range(rows, others, 500.0) < 20


def test_nothing_but_zeros_has_a_range_too() -> None:
    assert best_range(np.zeros((4, 3), np.float32), np.ones(3, np.float32)) == 0
    assert representable_scale(np.zeros(1, np.float32))[0] > 0


def test_weight_scales_are_no_worse_than_the_largest_weight_gives() -> None:
    weight = RNG.standard_t(3, (200, 12)).astype(np.float32)
    importance = RNG.random(200).astype(np.float32)
    searched = weight_scales(weight, importance, INT8_GRID, None)
    plain = representable_scale(np.abs(weight).max(axis=0))
    errors = [importance @ (fake_quantise(weight, s) - weight) ** 2 for s in (searched, plain)]
    assert (errors[0] <= errors[1]).all()
    assert errors[0].sum() < errors[1].sum()
