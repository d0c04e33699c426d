from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from vit_edge.export.quantise.grid import (
    FP8_GRID,
    GRIDS,
    INT4_GRID,
    INT8_GRID,
    Grid,
    Scheme,
    fake_quantise,
    for_each_weight,
    plain_scales,
    weight_scales,
)

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("grid", [INT8_GRID, INT4_GRID, FP8_GRID])
def test_a_grid_holds_what_its_type_holds(grid: Grid) -> None:
    values = (RNG.standard_normal(1000) * grid.largest).astype(np.float32)
    rounded = grid.round(values)
    np.testing.assert_array_equal(rounded.astype(grid.dtype.numpy()).astype(np.float32), rounded)
    np.testing.assert_array_equal(grid.round(rounded), rounded)
    np.testing.assert_array_equal(grid.round(-values), -rounded)
    assert rounded.max() == grid.largest
    assert np.isfinite(rounded).all()


@pytest.mark.parametrize("grid", GRIDS.values())
def test_clipping_begins_half_a_step_beyond_the_largest(grid: Grid) -> None:
    numbers = np.unique(grid.round(np.linspace(0, grid.largest, 10_000, dtype=np.float32)))
    assert grid.clips_from == grid.largest + (numbers[-1] - numbers[-2]) / 2


def test_fp8_goes_to_the_nearest_number() -> None:
    every = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    every = np.unique(every[np.isfinite(every)])
    values = RNG.uniform(-448, 448, 2000).astype(np.float32)
    nearest = np.abs(values[:, None] - every).min(axis=1)
    np.testing.assert_allclose(np.abs(FP8_GRID.round(values) - values), nearest, rtol=1e-6)


def test_blocks_of_input_channels_have_their_own_scales() -> None:
    weight = RNG.standard_normal((128, 6)).astype(np.float32)
    weight[:64] *= 50
    scales = plain_scales(weight, INT4_GRID, 64)
    assert scales.shape == (2, 6)
    assert (scales[0] > 10 * scales[1]).all()
    spread = for_each_weight(scales, weight.shape)
    assert spread.shape == weight.shape
    lost = np.abs(fake_quantise(weight, spread, INT4_GRID) - weight)
    assert (lost <= 0.51 * spread).all()


@pytest.mark.parametrize("block", [None, 32])
def test_searched_scales_lose_no_more_than_plain_ones(block: int | None) -> None:
    weight = RNG.standard_t(3, (128, 6)).astype(np.float32)
    importance = RNG.random(128).astype(np.float32)
    errors = []
    for scales in (
        weight_scales(weight, importance, INT4_GRID, block),
        plain_scales(weight, INT4_GRID, block),
    ):
        spread = for_each_weight(scales, weight.shape)
        errors.append(importance @ (fake_quantise(weight, spread, INT4_GRID) - weight) ** 2)
    assert (errors[0] <= errors[1] * (1 + 1e-6)).all()
    assert errors[0].sum() < 0.95 * errors[1].sum()


@pytest.mark.parametrize(
    ("channels", "block"), [(768, 64), (192, 64), (96, 32), (48, 16), (200, 200), (1, 1)]
)
def test_a_block_divides_the_channels(channels: int, block: int) -> None:
    assert Scheme(INT4_GRID, None, block=64).block_for(channels) == block
    assert Scheme(INT8_GRID, INT8_GRID).block_for(channels) is None
