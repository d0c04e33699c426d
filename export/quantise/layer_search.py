"""Searches how to quantise one layer, by the outputs of its Linears: the factors and the shift of
its activations, their range, and the rounding of the weights. Only `divide` and `subtract` change a
graph, so that layers can be searched in parallel.

Dividing moves the outliers of an activation into the weights that read it. Source: G. Xiao et al.,
"SmoothQuant", arXiv 2211.10438, equation 4: channel k of the activation is divided by s_k = max
|x_k|^alpha / max |w_k|^(1 - alpha), row k of the weights multiplied. Here alpha is searched for
each layer.

Shifting centres one-sided activations, so that a symmetric grid does not waste half of its levels:
GELU outputs lie between -0.17 and their largest value, and SmoothQuant cannot scale through a GELU.
Subtracting a constant, which the bias of the Linear restores, centres the range and halves the
step. It adds an elementwise operation, which compilers fuse with the GELU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from vit_edge.calibration.collect import LayerSamples
from vit_edge.export.graph_edit import add_initializer, array, describe
from vit_edge.export.passes.linears import Linear

from .grid import (
    Floats,
    Grid,
    IntegerGrid,
    Rounding,
    Scheme,
    SecondMoments,
    cautious_range,
    fake_quantise,
    for_each_weight,
    representable_scale,
    round_weights,
    thin_out,
)
from .grid import weight_scales as search_scales
from .linear_layers import LinearLayer, sqnr_db

_ONE_SIDED = 0.25
"""Activations are shifted if their minimum is above minus this share of their best range."""


def shift_of(
    layer: LinearLayer, rows: Floats, amax: np.float32, grid: Grid
) -> tuple[np.float32, Floats]:
    """Finds the shift of a layer whose best symmetric range is `amax`, and the scale after it.

    The shift is also 0 if a Linear has no bias that could restore it.
    """
    if all(linear.bias is not None for linear in layer.linears):
        return centre(rows, amax, grid)
    return np.float32(0), representable_scale(np.array(amax), grid)


def centre(rows: Floats, amax: np.float32, grid: Grid) -> tuple[np.float32, Floats]:
    """The shift that centres `rows`, whose best symmetric range is `amax`, and the scale after it.

    The shift is a multiple of the scale, so that zero, the most frequent value, stays exact. It is
    0 if the activations are two-sided or the grid is finest around zero.
    """
    least = rows.min()
    middle, half = (amax + least) / 2, (amax - least) / 2
    two_sided = middle <= 0 or -least > _ONE_SIDED * amax
    if two_sided or not isinstance(grid, IntegerGrid):
        return np.float32(0), representable_scale(np.array(amax), grid)
    scale = representable_scale(np.array(half, np.float32), grid)
    return np.float32(np.rint(middle / scale) * scale), scale


def divide(graph: ir.Graph, value: ir.Value, factor: Floats) -> ir.Value:
    """Adds `value / factor` as a product; `factor` `[K]` is for the channels on the last axis."""
    return _behind(graph, value, "Mul", "scaled", (1 / factor).astype(np.float32))


def subtract(graph: ir.Graph, value: ir.Value, shift: np.float32) -> ir.Value:
    """Adds `value - shift`."""
    return _behind(graph, value, "Sub", "shifted", np.array(shift, np.float32))


def _behind(graph: ir.Graph, value: ir.Value, kind: str, done: str, constant: Floats) -> ir.Value:
    """Adds a node behind `value`, whose other readers do not change."""
    name, producer = f"{str(value.name).removesuffix('@scaled')}@{done}", value.producer()
    assert producer is not None
    node = ir.node(kind, [value, add_initializer(graph, f"{name}/by", constant)], name=name)
    graph.insert_after(producer, node)
    return describe(node.outputs[0], node.name, value.shape, ir.DataType.FLOAT)


ALPHAS = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9)
_QUIET = 0.5
"""Quantile of the channels' largest magnitudes to which lower ones are raised: those of quiet
channels differ most from image to image.
"""
MIN_GAIN = 1.5
"""Factor by which the squared error must fall: without outliers, smoothing does not pay."""
_TINY = np.float32(1e-5)
_MAX_FACTOR = np.float32(1e4)


@dataclass(frozen=True)
class Smoothing:
    """Result of the search for a layer.

    Attributes:
        alpha: None if there is no smoothing.
        factor: float32 `[K]`, the s_k.
        error: Relative squared error of the outputs.
    """

    alpha: float | None
    factor: Floats
    error: float


def search_smoothing(
    samples: LayerSamples, weight: Floats, scheme: Scheme, min_gain: float = MIN_GAIN
) -> Smoothing:
    """Finds the alpha with the least output error for the Linears `weight` `[K, N]`; none if that
    error is not `min_gain` times less than without smoothing.
    """
    seen = samples.channel_amax

    def error_of(rows: Floats, factor: Floats, scaled: Floats, outputs: Floats) -> float:
        return _error(rows, float((seen / factor).max()), scaled, outputs, scheme)

    return search_smoothing_by(error_of, samples, weight, min_gain)


def search_smoothing_by(
    error_of: Callable[[Floats, Floats, Floats, Floats], float],
    samples: LayerSamples,
    weight: Floats,
    min_gain: float,
) -> Smoothing:
    """Does the same as `search_smoothing`, with any error function.

    Args:
        error_of: Returns the relative squared error, given the smoothed rows, the factors that they
            were divided by, the weight multiplied by these, and the exact outputs of the Linears.
        samples: Those of the layer.
        weight: float32 `[K, N]`.
        min_gain: See `search_smoothing`.
    """
    rows = thin_out(samples.rows)
    plain = np.ones(weight.shape[0], np.float32)
    outputs = rows @ weight
    plain_error = error_of(rows, plain, weight, outputs)
    best = Smoothing(None, plain, plain_error)
    for alpha in ALPHAS:
        factor = smoothing_factor(samples.channel_amax, weight, alpha)
        error = error_of(rows / factor, factor, weight * factor[:, None], outputs)
        if error < best.error:
            best = Smoothing(alpha, factor, error)
    if best.error * min_gain > plain_error:
        return Smoothing(None, plain, plain_error)
    return best


def smoothing_factor(channel_amax: Floats, weight: Floats, alpha: float) -> Floats:
    """s_k, such that the largest magnitude of all channels does not change: activations that fitted
    into 16 bits still do.
    """
    quiet = np.float32(np.quantile(channel_amax, _QUIET))
    largest, rows = np.maximum(channel_amax, max(quiet, _TINY)), np.abs(weight).max(axis=1)
    factor = largest**alpha / np.maximum(rows, _TINY) ** (1 - alpha)
    factor *= (largest / factor).max() / largest.max()
    clipped: Floats = np.clip(factor, 1 / _MAX_FACTOR, _MAX_FACTOR).astype(np.float32)
    return clipped


def _error(rows: Floats, largest: float, weight: Floats, outputs: Floats, scheme: Scheme) -> float:
    """Relative squared error of the outputs with quantised rows and weight; `largest` is the
    greatest magnitude of all tokens.
    """
    quantised, scales = rows, for_each_weight(scheme.plain_scales(weight), weight.shape)
    if scheme.activations is not None:
        amax = cautious_range(rows, (weight**2).sum(axis=1), largest, scheme.activations)
        shift, scale = centre(rows, amax, scheme.activations)
        quantised = fake_quantise(rows - shift, scale, scheme.activations) + shift
    difference = quantised @ fake_quantise(weight, scales, scheme.weights) - outputs
    return float((difference**2).mean() / max(float((outputs**2).mean()), 1e-30))


@dataclass(frozen=True)
class RoundedLinear:
    """A Linear's weight on its grid.

    Attributes:
        numbers: float32 `[K, N]`, numbers of the grid.
        scales: float32 `[N]` or `[K / block, N]`.
        correction: float32 `[N]`, to be added to the bias: the mean error of the outputs, and the
            effect of the shift of the inputs. None without a bias.
        sqnr_db: SQNR of the outputs in decibels, on some of the samples.
    """

    numbers: Floats
    scales: Floats
    correction: Floats | None
    sqnr_db: float


@dataclass(frozen=True)
class RoundedLayer:
    """A layer's grid, and its Linears' weights.

    Attributes:
        amax: The largest magnitude that its grid represents; None if activations are not quantised.
        scale: float32 `[]`, their scale; None likewise.
        factor: float32 `[K]` that the activations are divided by first; None for no division.
        shift: Subtracted from them after that; 0 for none.
        linears: In the order of `LinearLayer.linears`.
    """

    amax: float | None
    scale: Floats | None
    factor: Floats | None
    shift: np.float32
    linears: tuple[RoundedLinear, ...]


def search_layer(
    layer: LinearLayer,
    rows: Floats,
    largest: float,
    scheme: Scheme,
    factor: Floats | None = None,
    rounding: Rounding = round_weights,
) -> RoundedLayer:
    """Finds the range, rounding and biases of a layer.

    Args:
        layer: The layer, after smoothing.
        rows: float32 `[rows, K]`, samples of its activations after smoothing.
        largest: The greatest magnitude of all its activations after smoothing.
        scheme: The grids.
        factor: float32 `[K]` that the quantised layer itself divides its input by; None for no
            division. `rows` and `largest` are already divided, the weights not yet multiplied.
        rounding: Rounds the weights.
    """
    weights = [_multiplied(array(linear.weight), factor) for linear in layer.linears]
    amax, scale, grid = None, None, scheme.activations
    quantised, shift = rows, np.float32(0)
    if grid is not None:
        importance = sum(np.square(weight).sum(axis=1) for weight in weights)
        best = cautious_range(rows, np.asarray(importance), largest, grid)
        shift, scale = shift_of(layer, rows, best, grid)
        quantised, amax = fake_quantise(rows - shift, scale, grid) + shift, float(best)
    moments = (quantised.T @ quantised).astype(np.float64) / len(quantised)
    linears = (
        _round(linear, weight, moments, scheme, rows, quantised, shift, rounding)
        for linear, weight in zip(layer.linears, weights, strict=True)
    )
    return RoundedLayer(amax, scale, factor, shift, tuple(linears))


def _multiplied(weight: Floats, factor: Floats | None) -> Floats:
    return weight if factor is None else weight * factor[:, None]


def _round(
    linear: Linear,
    weight: Floats,
    moments: SecondMoments,
    scheme: Scheme,
    rows: Floats,
    quantised: Floats,
    shift: np.float32,
    rounding: Rounding,
) -> RoundedLinear:
    """Rounds a weight; `quantised` is `rows` on its grid, `shift` will be subtracted from them."""
    grid = scheme.weights
    importance = np.diag(moments).astype(np.float32)
    scales = search_scales(weight, importance, grid, scheme.block_for(len(weight)))
    numbers = rounding(weight, scales, moments, grid)
    rounded = numbers * for_each_weight(scales, weight.shape)
    expected = _mean(rows) @ weight
    lost: Floats = expected - _mean(quantised) @ rounded
    few = thin_out(rows) @ weight
    errors = few - thin_out(quantised) @ rounded
    correction = None
    if linear.bias is not None:  # M. Nagel et al., arXiv 1906.04721, section 4.2
        correction = lost + shift * rounded.sum(axis=0)
        errors -= lost
    return RoundedLinear(numbers, scales, correction, sqnr_db(few - expected, errors))


def _mean(rows: Floats) -> Floats:
    mean: Floats = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean
