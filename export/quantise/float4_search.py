"""Quantises the Linears of a graph to NVFP4: smoothing, block scales, rounding and biases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from vit_edge.calibration.collect import LayerSamples, Samples
from vit_edge.export.graph_edit import array
from vit_edge.export.passes.linears import Linear
from vit_edge.export.progress import Update

from .float4 import (
    ROOM_OF_ACTIVATIONS,
    fake_quantise,
    float4_layers,
    plain_scales,
    scale_of_weights,
    search_scales,
    tensor_scale,
)
from .float4_qdq import quantise_activation, quantise_weight
from .grid import (
    FP4_GRID,
    Floats,
    Scheme,
    SecondMoments,
    for_each_weight,
    round_to_nearest,
    round_weights,
    thin_out,
)
from .layer_search import Smoothing, search_smoothing_by
from .linear_layers import (
    LayerExplanation,
    LinearLayer,
    describe_channels,
    find_scalable,
    parallel_map,
    sqnr_db,
)
from .linears import Smoothed, correct_bias, smooth_by

MIN_GAIN = 1.1
"""Factor by which the squared error must fall. Less than where ranges are constants: block scales
adapt to the image, so that smoothed activations cannot leave their range.
"""


@dataclass(frozen=True)
class Float4Linear:
    """A Linear's weight on its grid; see `layer_search.RoundedLinear`."""

    numbers: Floats
    scales: Floats
    correction: Floats | None
    sqnr_db: float


@dataclass(frozen=True)
class RoundedFloat4Layer:
    """A layer's activation scale, None if these are not quantised, its weight scale and Linears."""

    scale: np.float32 | None
    weight_scale: np.float32
    linears: tuple[Float4Linear, ...]


def smooth_all(
    graph: ir.Graph, samples: Samples, scheme: Scheme, update: Update
) -> dict[str, Smoothed]:
    """Smooths the layers that NVFP4 quantises, as `linears.smooth_all` does; returns all layers."""
    chosen = {layer.name for layer in float4_layers(graph)}

    def search_one(layer: LinearLayer) -> Smoothing | None:
        if layer.name not in chosen or find_scalable(layer) is None:
            return None
        return search_smoothing(samples[layer.name], layer.weights, scheme)

    return smooth_by(search_one, graph, samples, update)


def search_smoothing(samples: LayerSamples, weight: Floats, scheme: Scheme) -> Smoothing:
    """Finds the alpha with the least output error for the Linears `weight` `[K, N]`; none if that
    error is not `MIN_GAIN` times less than without smoothing.
    """
    amax = float(samples.channel_amax.max())

    def error_of(rows: Floats, factor: Floats, scaled: Floats, outputs: Floats) -> float:
        return _error(rows, scaled, outputs, scheme, amax)

    return search_smoothing_by(error_of, samples, weight, MIN_GAIN)


def _error(rows: Floats, weight: Floats, outputs: Floats, scheme: Scheme, amax: float) -> float:
    """Relative squared error of the outputs with quantised rows and weights rounded to nearest."""
    scales = scheme.plain_scales(weight)
    rounded = round_to_nearest(weight, scales, FP4_GRID) * for_each_weight(scales, weight.shape)
    if scheme.activations is not None:
        rows = fake_quantise(rows, tensor_scale(amax, ROOM_OF_ACTIVATIONS))
    difference = rows @ rounded - outputs
    return float((difference**2).mean() / max(float((outputs**2).mean()), 1e-30))


def round_all(
    graph: ir.Graph, smoothed: Mapping[str, Smoothed], scheme: Scheme, update: Update
) -> dict[str, RoundedFloat4Layer]:
    """Searches the scales, rounding and biases of the layers, as `linears.round_all` does."""
    layers = [layer for layer in float4_layers(graph) if layer.name in smoothed]
    done = dict[str, RoundedFloat4Layer]()

    def search_one(layer: LinearLayer) -> RoundedFloat4Layer:
        return search_layer(layer, smoothed[layer.name], scheme)

    for layer, rounded in zip(layers, parallel_map(search_one, layers), strict=True):
        done[layer.name] = rounded
        update(len(done), len(layers))
    return done


def quantise(graph: ir.Graph, rounded: Mapping[str, RoundedFloat4Layer], scheme: Scheme) -> None:
    """Quantises every layer in `rounded` in place, as `linears.quantise` does."""
    for layer in float4_layers(graph):
        if layer.name in rounded:
            _write(graph, layer, rounded[layer.name])


def explain(
    graph: ir.Graph,
    samples: Samples,
    smoothed: Mapping[str, Smoothed],
    rounded: Mapping[str, RoundedFloat4Layer],
) -> tuple[LayerExplanation, ...]:
    """Describes the decisions about every layer in `rounded`, as `linears.explain` does."""
    return tuple(
        _explain(layer, samples[layer.name], smoothed[layer.name], rounded[layer.name])
        for layer in float4_layers(graph)
        if layer.name in rounded
    )


def _explain(
    layer: LinearLayer, seen: LayerSamples, smoothed: Smoothed, rounded: RoundedFloat4Layer
) -> LayerExplanation:
    sqnr = {x.name: y.sqnr_db for x, y in zip(layer.linears, rounded.linears, strict=True)}
    amax = None if rounded.scale is None else float(smoothed.channel_amax.max())
    before, after = describe_channels(seen.channel_amax), describe_channels(smoothed.channel_amax)
    return LayerExplanation(layer.name, smoothed.alpha, before, after, amax, sqnr)


def search_layer(layer: LinearLayer, smoothed: Smoothed, scheme: Scheme) -> RoundedFloat4Layer:
    """Finds the block scales, rounding and biases of a layer by the outputs of its Linears."""
    rows, scale = smoothed.rows, None
    quantised = rows
    if scheme.activations is not None:
        scale = tensor_scale(smoothed.channel_amax.max(), ROOM_OF_ACTIVATIONS)
        quantised = fake_quantise(rows, scale)
    moments = (quantised.T @ quantised).astype(np.float64) / len(quantised)
    weight_scale = scale_of_weights([array(linear.weight) for linear in layer.linears])
    linears = [_round(linear, moments, weight_scale, rows, quantised) for linear in layer.linears]
    return RoundedFloat4Layer(scale, weight_scale, tuple(linears))


def _round(
    linear: Linear, moments: SecondMoments, scale: np.float32, rows: Floats, quantised: Floats
) -> Float4Linear:
    """Rounds a weight; `quantised` is `rows` as the product reads them."""
    weight = array(linear.weight)
    scales = search_scales(weight, np.diag(moments).astype(np.float32), scale)
    numbers = round_weights(weight, scales, moments.copy(), FP4_GRID)
    rounded = numbers * for_each_weight(scales, weight.shape)
    expected = _mean(rows) @ weight
    lost: Floats = expected - _mean(quantised) @ rounded
    few = thin_out(rows) @ weight
    errors = few - thin_out(quantised) @ rounded
    if linear.bias is None:
        return Float4Linear(numbers, scales, None, sqnr_db(few - expected, errors))
    return Float4Linear(numbers, scales, lost, sqnr_db(few - expected, errors - lost))


def _mean(rows: Floats) -> Floats:
    mean: Floats = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean


def _write(graph: ir.Graph, layer: LinearLayer, rounded: RoundedFloat4Layer) -> None:
    read = layer.activation
    if rounded.scale is not None:
        read = quantise_activation(graph, read, rounded.scale)
    for linear, weight in zip(layer.linears, rounded.linears, strict=True):
        if weight.correction is not None:
            correct_bias(graph, linear, weight.correction)
        quantise_weight(graph, linear, weight.numbers, weight.scales, rounded.weight_scale)
        linear.node.replace_input_with(0, read)


def quantise_by_table(graph: ir.Graph, amax: Mapping[str, float], scheme: Scheme) -> None:
    """Applies plain post-training quantisation: block scales by the largest magnitudes, activation
    ranges from an observer, weights rounded to nearest.
    """
    for layer in float4_layers(graph):
        read = layer.activation
        if scheme.activations is not None:
            read = quantise_activation(graph, layer.activation, tensor_scale(amax[layer.name]))
        largest = max(float(np.abs(array(linear.weight)).max()) for linear in layer.linears)
        for linear in layer.linears:
            weight, scale = array(linear.weight), tensor_scale(largest)
            scales = plain_scales(weight, scale)
            numbers = round_to_nearest(weight, scales, FP4_GRID)
            linear.node.replace_input_with(0, read)
            quantise_weight(graph, linear, numbers, scales, scale)
