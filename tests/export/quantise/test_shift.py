"""One-sided activations are centred; others are left as they are."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from vit_edge.export.quantise.grid import FP8_GRID, INT8_GRID, fake_quantise, representable_scale
from vit_edge.export.quantise.layer_search import shift_of
from vit_edge.export.quantise.linear_layers import LinearLayer, find_linear_layers


@pytest.fixture
def layer(optimised: ir.Model) -> LinearLayer:
    """A GELU's output, with one Linear that has a bias."""
    layers = find_linear_layers(optimised.clone().graph)
    return next(s for s in layers if s.name.endswith("Gelu"))


def test_what_a_gelu_gives_out_gets_half_the_step_and_an_exact_zero(layer: LinearLayer) -> None:
    rows = np.random.default_rng(0).uniform(-0.17, 8, (64, 32)).astype(np.float32)
    shift, scale = shift_of(layer, rows, np.float32(8), INT8_GRID)
    plain = representable_scale(np.array(8, np.float32))
    assert scale < 0.53 * plain
    assert fake_quantise(np.zeros(1, np.float32) - shift, scale) + shift == 0
    restored = fake_quantise(rows - shift, scale) + shift
    assert np.abs(restored - rows).max() < 1.01 * scale


def test_two_sided_activations_are_not_shifted(layer: LinearLayer) -> None:
    rows = np.random.default_rng(0).uniform(-8, 8, (64, 32)).astype(np.float32)
    shift, scale = shift_of(layer, rows, np.float32(8), INT8_GRID)
    assert shift == 0
    assert scale == representable_scale(np.array(8, np.float32))


def test_a_grid_that_is_finest_around_zero_is_not_shifted(layer: LinearLayer) -> None:
    rows = np.random.default_rng(0).uniform(-0.17, 8, (64, 32)).astype(np.float32)
    assert shift_of(layer, rows, np.float32(8), FP8_GRID)[0] == 0
