"""Quantises the Linears of a graph: smoothing, ranges, rounding and biases by the Linears' outputs;
writes their Q/DQ pairs.

Source: ONNX QuantizeLinear, DequantizeLinear; zero point 0, as TensorRT requires.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vit_edge.calibration.collect import LayerSamples, Samples
from vit_edge.export.graph_edit import add_initializer, array, describe, replace_input
from vit_edge.export.passes.linears import Linear
from vit_edge.export.progress import Update

from .grid import (
    Floats,
    Grid,
    Rounding,
    Scheme,
    representable_scale,
    round_to_nearest,
    round_weights,
)
from .layer_search import RoundedLayer, Smoothing, divide, search_layer, search_smoothing, subtract
from .linear_layers import (
    LayerExplanation,
    LinearLayer,
    describe_channels,
    find_linear_layers,
    find_scalable,
    is_behind_gelu,
    parallel_map,
)

BLOCKS_OPSET = 21
"""The first opset whose DequantizeLinear supports 4 bits and blocks."""


def quantise_activation(graph: ir.Graph, value: ir.Value, scale: Floats, grid: Grid) -> ir.Value:
    """Adds Q/DQ behind `value` and returns its output; `scale` has one element."""
    name = str(value.name)
    step = add_initializer(graph, f"{name}/scale", scale.reshape(()))
    zero = _add_numbers(graph, f"{name}/zero_point", np.zeros((), np.float32), grid)
    quantise = ir.node("QuantizeLinear", [value, step, zero], name=f"{name}/QuantizeLinear")
    numbers = describe(quantise.outputs[0], quantise.name, value.shape, grid.dtype)
    inputs = [numbers, step, zero]
    dequantise = ir.node("DequantizeLinear", inputs, name=f"{name}/DequantizeLinear")
    producer = value.producer()
    assert producer is not None
    graph.insert_after(producer, (quantise, dequantise))
    return describe(dequantise.outputs[0], dequantise.name, value.shape, ir.DataType.FLOAT)


def quantise_weight(
    graph: ir.Graph, linear: Linear, numbers: Floats, scales: Floats, grid: Grid
) -> None:
    """Makes the Linear read `numbers` `[K, N]` of `grid`, with a scale for each output, or for
    each block of input channels too.
    """
    name = str(linear.weight.name)
    zeros = np.zeros(scales.shape, np.float32)
    inputs = [
        _add_numbers(graph, f"{name}@{grid.name}", numbers, grid),
        add_initializer(graph, f"{name}/scale", scales),
        _add_numbers(graph, f"{name}/zero_point", zeros, grid),
    ]
    attributes = {"axis": 1} if scales.ndim == 1 else _blocks(graph, len(numbers) // len(scales))
    node = ir.node("DequantizeLinear", inputs, attributes, name=f"{name}/DequantizeLinear")
    graph.insert_before(linear.node, node)
    shape = linear.weight.shape
    replace_input(
        linear.node,
        linear.weight,
        describe(node.outputs[0], node.name, shape, ir.DataType.FLOAT),
    )


def dequantise_weight(
    graph: ir.Graph, node: ir.Node, weight: ir.Value, numbers: Floats, scales: Floats, grid: Grid
) -> None:
    """Makes a convolution read `numbers` `[N, ...]` of `grid`, with a scale for each output."""
    name = str(weight.name)
    inputs = [
        _add_numbers(graph, f"{name}@{grid.name}", numbers, grid),
        add_initializer(graph, f"{name}/scale", scales),
        _add_numbers(graph, f"{name}/zero_point", np.zeros(scales.shape, np.float32), grid),
    ]
    dequantise = ir.node("DequantizeLinear", inputs, {"axis": 0}, name=f"{name}/DequantizeLinear")
    graph.insert_before(node, dequantise)
    read = describe(dequantise.outputs[0], dequantise.name, weight.shape, ir.DataType.FLOAT)
    replace_input(node, weight, read)


def _blocks(graph: ir.Graph, size: int) -> dict[str, int]:
    graph.opset_imports[""] = max(graph.opset_imports[""], BLOCKS_OPSET)
    return {"axis": 0, "block_size": size}


def _add_numbers(graph: ir.Graph, name: str, numbers: Floats, grid: Grid) -> ir.Value:
    data: NDArray[np.generic] = numbers.astype(grid.dtype.numpy())
    return add_initializer(graph, name, data)


@dataclass(frozen=True)
class Smoothed:
    """A layer's input after smoothing.

    Attributes:
        rows: float32 `[rows, K]`, the samples after smoothing.
        channel_amax: float32 `[K]`, the channels' largest magnitudes after smoothing.
        alpha, factor: SmoothQuant's exponent and the factors that the channels were divided by,
            float32 `[K]`; None if it was not smoothed.
        inside: True if the quantised layer itself divides by `factor`, because nothing before a
            GELU can be scaled.
    """

    rows: Floats
    channel_amax: Floats
    alpha: float | None = None
    factor: Floats | None = None
    inside: bool = False


def smooth_all(
    graph: ir.Graph, samples: Samples, scheme: Scheme, update: Update
) -> dict[str, Smoothed]:
    """Smooths every layer in place without changing an output; returns the layers by name.

    `update` is called with layers done and layers in all.
    """

    def search_one(layer: LinearLayer) -> Smoothing | None:
        if find_scalable(layer) is None:
            return None
        return search_smoothing(samples[layer.name], layer.weights, scheme)

    return smooth_by(search_one, graph, samples, update)


def divide_all(
    graph: ir.Graph, samples: Samples, scheme: Scheme, update: Update
) -> dict[str, Smoothed]:
    """Searches factors by which quantised layers behind a GELU could divide their input themselves,
    at the cost of a multiplication there; does not change the graph.

    Returns:
        The layers whose own error falls by `layer_search.MIN_GAIN`, by name. For the gain in the
        model's outputs see `algorithms.divide_where_outputs_gain`.
    """
    if scheme.activations is None:
        return {}
    layers, divided = [layer for layer in find_linear_layers(graph) if is_behind_gelu(layer)], {}

    def search_one(layer: LinearLayer) -> Smoothing:
        return search_smoothing(samples[layer.name], layer.weights, scheme)

    for done, (layer, smoothing) in enumerate(
        zip(layers, parallel_map(search_one, layers), strict=True)
    ):
        if smoothing.alpha is not None:
            divided[layer.name] = _smoothed(samples[layer.name], smoothing, inside=True)
        update(done + 1, len(layers))
    return divided


def smooth_by(
    search_one: Callable[[LinearLayer], Smoothing | None],
    graph: ir.Graph,
    samples: Samples,
    update: Update,
) -> dict[str, Smoothed]:
    """Smooths every layer in place as `search_one` chooses, see `smooth_all`."""
    layers, done = find_linear_layers(graph), dict[str, Smoothed]()
    for layer, smoothing in zip(layers, parallel_map(search_one, layers), strict=True):
        done[layer.name] = smooth(graph, layer, samples[layer.name], smoothing)
        update(len(done), len(layers))
    return done


def round_all(
    graph: ir.Graph,
    smoothed: Mapping[str, Smoothed],
    scheme: Scheme,
    update: Update,
    rounding: Rounding = round_weights,
) -> dict[str, RoundedLayer]:
    """Searches ranges, rounding and biases of every layer in `smoothed`; returns them by name.

    Args:
        graph: The fp32 graph after `smooth_all`; it is not changed.
        smoothed: The result of `smooth_all`, or of `divide_all` for layers that divide.
        scheme: The grids.
        update: Called with layers done and layers in all.
        rounding: Rounds the weights.
    """
    layers = [layer for layer in find_linear_layers(graph) if layer.name in smoothed]
    done = dict[str, RoundedLayer]()

    def search_one(layer: LinearLayer) -> RoundedLayer:
        seen = smoothed[layer.name]
        factor = seen.factor if seen.inside else None
        return search_layer(
            layer, seen.rows, float(seen.channel_amax.max()), scheme, factor, rounding
        )

    for layer, rounded in zip(layers, parallel_map(search_one, layers), strict=True):
        done[layer.name] = rounded
        update(len(done), len(layers))
    return done


def quantise(graph: ir.Graph, rounded: Mapping[str, RoundedLayer], scheme: Scheme) -> None:
    """Puts Q/DQ on the Linears of every layer in `rounded`, in place; Linears that share an input
    share its Q/DQ.
    """
    for layer in find_linear_layers(graph):
        if layer.name in rounded:
            _quantise(graph, layer, rounded[layer.name], scheme)


def explain(
    graph: ir.Graph,
    samples: Samples,
    smoothed: Mapping[str, Smoothed],
    rounded: Mapping[str, RoundedLayer],
) -> tuple[LayerExplanation, ...]:
    """Describes the decisions about every layer in `rounded`, in graph order.

    Args:
        graph: The fp32 graph after `smooth_all`.
        samples: The calibration samples of its layers, before smoothing.
        smoothed: The result of `smooth_all` and `divide_all`.
        rounded: The result of `round_all`.
    """
    return tuple(
        _explain(layer, samples[layer.name], smoothed[layer.name], rounded[layer.name])
        for layer in find_linear_layers(graph)
        if layer.name in rounded
    )


def _quantise(graph: ir.Graph, layer: LinearLayer, rounded: RoundedLayer, scheme: Scheme) -> None:
    """Puts Q/DQ on a layer's activation and on its Linears' weights."""
    read = layer.activation
    if rounded.scale is not None and scheme.activations is not None:
        read = divide(graph, read, rounded.factor) if rounded.factor is not None else read
        read = subtract(graph, read, rounded.shift) if rounded.shift else read
        read = quantise_activation(graph, read, rounded.scale, scheme.activations)
    for linear, weight in zip(layer.linears, rounded.linears, strict=True):
        if weight.correction is not None:
            correct_bias(graph, linear, weight.correction)
        quantise_weight(graph, linear, weight.numbers, weight.scales, scheme.weights)
        linear.node.replace_input_with(0, read)


def _explain(
    layer: LinearLayer, seen: LayerSamples, smoothed: Smoothed, rounded: RoundedLayer
) -> LayerExplanation:
    return LayerExplanation(
        layer.name,
        smoothed.alpha,
        describe_channels(seen.channel_amax),
        describe_channels(smoothed.channel_amax),
        rounded.amax,
        {
            linear.name: weight.sqnr_db
            for linear, weight in zip(layer.linears, rounded.linears, strict=True)
        },
    )


def quantise_by_table(graph: ir.Graph, amax: Mapping[str, float], scheme: Scheme) -> None:
    """Plain post-training quantisation: ranges from an observer, weights rounded to nearest."""
    for layer in find_linear_layers(graph):
        read = layer.activation
        if scheme.activations is not None:
            scale = representable_scale(np.array(amax[layer.name]), scheme.activations)
            read = quantise_activation(graph, layer.activation, scale, scheme.activations)
        for linear in layer.linears:
            weight = array(linear.weight)
            scales = scheme.plain_scales(weight)
            numbers = round_to_nearest(weight, scales, scheme.weights)
            linear.node.replace_input_with(0, read)
            quantise_weight(graph, linear, numbers, scales, scheme.weights)


def smooth(
    graph: ir.Graph, layer: LinearLayer, samples: LayerSamples, chosen: Smoothing | None
) -> Smoothed:
    """Smooths a layer in place as the search chose; if it chose nothing, changes nothing."""
    source = find_scalable(layer)
    if chosen is None or chosen.alpha is None or source is None:
        return Smoothed(np.ascontiguousarray(samples.rows), samples.channel_amax)
    source.scale(graph, (1 / chosen.factor).astype(np.float32))
    for linear in layer.linears:
        name = f"{linear.weight.name}/smoothed"
        scaled = array(linear.weight) * chosen.factor[:, None]
        replace_input(linear.node, linear.weight, add_initializer(graph, name, scaled))
    return _smoothed(samples, chosen, inside=False)


def _smoothed(samples: LayerSamples, chosen: Smoothing, inside: bool) -> Smoothed:
    rows = np.ascontiguousarray(samples.rows / chosen.factor)
    amax = samples.channel_amax / chosen.factor
    return Smoothed(rows, amax, chosen.alpha, chosen.factor, inside)


def correct_bias(graph: ir.Graph, linear: Linear, correction: Floats) -> None:
    """Adds `correction` `[N]` to the bias of the Linear, which must have one."""
    add = linear.output.producer()
    assert linear.bias is not None
    assert add is not None
    corrected = array(linear.bias) + correction
    name = f"{linear.bias.name}/corrected"
    replace_input(add, linear.bias, add_initializer(graph, name, corrected))
