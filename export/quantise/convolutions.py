"""Quantises the convolutions of hybrid models: stems, depthwise and pointwise ones.

The first convolution, which reads the frame itself, is not quantised: in a ViT it embeds the
patches, a hundredth of the work. TensorRT requires the same of a convolution as of a Linear:
weights with a scale for each output channel, activations with one scale, zero points 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vit_edge.calibration.collect import LayerSamples, Samples
from vit_edge.export.graph_edit import add_initializer, array, replace_input
from vit_edge.export.passes.linears import find_linears
from vit_edge.export.progress import Update

from .grid import (
    INT8_GRID,
    Floats,
    Scheme,
    best_range,
    fake_quantise,
    representable_scale,
    round_weights,
    thin_out,
    weight_scales,
)
from .linear_layers import LayerExplanation, describe_channels, parallel_map, sqnr_db
from .linears import dequantise_weight, quantise_activation

MIN_SIZE = 16
"""See `linear_layers.MIN_SIZE`."""
_GROUP = 4
"""Channels that TensorRT's INT8 kernels process at a time; depthwise ones have their own."""
_FROM_PIXELS = ("Cast", "Transpose", "Sub", "Mul", "Div", "Add", "Reshape", "Slice", "Concat")


@dataclass(frozen=True)
class Convolution:
    """`Conv(activation [B, C, ...], weight [N, C / groups, ...])`, and a bias where it has one."""

    node: ir.Node
    activation: ir.Value
    weight: ir.Value

    @property
    def name(self) -> str:
        """The module's name, as `stages.0.conv1`."""
        name = str(self.node.name)
        return name.rpartition("/")[0] or name

    @property
    def output(self) -> ir.Value:
        return self.node.outputs[0]

    @property
    def groups(self) -> int:
        return self.node.attributes.get_int("group", 1)

    @property
    def bias(self) -> ir.Value | None:
        return self.node.inputs[2] if len(self.node.inputs) > 2 else None


@dataclass(frozen=True)
class ConvolutionLayer:
    """An activation `[B, C, ...]` and the convolutions that read it."""

    activation: ir.Value
    convolutions: tuple[Convolution, ...]

    @property
    def name(self) -> str:
        return str(self.activation.name)


def find_convolution_layers(graph: ir.Graph, scheme: Scheme) -> list[ConvolutionLayer]:
    """The activations to quantise, each once, in graph order; none where the scheme has no INT8
    kernels for convolutions.
    """
    if scheme.weights is not INT8_GRID or scheme.activations is not INT8_GRID:
        return []
    read_by_linears = {linear.activation for linear in find_linears(graph)}
    raw = made_of_pixels(graph)
    groups: dict[ir.Value, list[Convolution]] = {}
    for convolution in filter(None, map(_as_convolution, graph)):
        activation = convolution.activation
        if activation in raw or activation in read_by_linears or not _pays(convolution):
            continue
        groups.setdefault(activation, []).append(convolution)
    return [ConvolutionLayer(activation, tuple(readers)) for activation, readers in groups.items()]


def _as_convolution(node: ir.Node) -> Convolution | None:
    if node.op_type != "Conv":
        return None
    activation, weight = node.inputs[:2]
    if activation is None or weight is None or activation.producer() is None:
        return None
    constant = all(v is None or v.is_initializer() for v in node.inputs[1:])
    return Convolution(node, activation, weight) if constant and weight.shape else None


def made_of_pixels(graph: ir.Graph) -> set[ir.Value]:
    """The frame, and the tensors that only normalise it or change its layout."""
    raw = set(graph.inputs)
    for node in graph:
        reads = [v for v in node.inputs if v is not None and not v.is_initializer()]
        if node.op_type in _FROM_PIXELS and reads and all(v in raw for v in reads):
            raw.update(node.outputs)
    return raw


def _pays(convolution: Convolution) -> bool:
    weight, groups = array(convolution.weight), convolution.groups
    outputs, inputs, taps = len(weight), weight.shape[1], int(weight[0, 0].size)
    if groups == 1:
        return bool(min(inputs * taps, outputs) >= MIN_SIZE)
    if inputs == 1:
        return outputs >= MIN_SIZE
    return bool(inputs % _GROUP == 0 and (outputs // groups) % _GROUP == 0)


@dataclass(frozen=True)
class _Rounded:
    numbers: Floats
    scales: Floats
    correction: Floats
    sqnr_db: float


def quantise_convolutions(
    graph: ir.Graph, samples: Samples, scheme: Scheme, update: Update
) -> tuple[LayerExplanation, ...]:
    """Puts Q/DQ on every quantisable convolution, in place; those that share an input share its
    Q/DQ.

    Args:
        graph: The fp32 graph.
        samples: Rows of the layers' channels, float32 `[rows, C]`.
        scheme: The grids.
        update: Called with layers done and layers in all.
    """
    layers, done = find_convolution_layers(graph, scheme), list[LayerExplanation]()

    def search(layer: ConvolutionLayer) -> tuple[float, tuple[_Rounded, ...]]:
        return _search(layer, samples[layer.name], scheme)

    for layer, (amax, rounded) in zip(layers, parallel_map(search, layers), strict=True):
        _write(graph, layer, amax, rounded, scheme)
        channels = describe_channels(samples[layer.name].channel_amax)
        ratios = {c.name: r.sqnr_db for c, r in zip(layer.convolutions, rounded, strict=True)}
        done.append(LayerExplanation(layer.name, None, channels, channels, amax, ratios))
        update(len(done), len(layers))
    return tuple(done)


def quantise_convolutions_by_table(
    graph: ir.Graph, amax: Mapping[str, float], scheme: Scheme
) -> None:
    """Plain post-training quantisation, as `linears.quantise_by_table`."""
    for layer in find_convolution_layers(graph, scheme):
        rounded = []
        for convolution in layer.convolutions:
            weight = _columns(convolution)
            scales = scheme.plain_scales(weight)
            none = np.zeros(weight.shape[1], np.float32)
            rounded.append(_Rounded(scheme.weights.round(weight / scales), scales, none, 0.0))
        _write(graph, layer, amax[layer.name], tuple(rounded), scheme)


def _search(
    layer: ConvolutionLayer, samples: LayerSamples, scheme: Scheme
) -> tuple[float, tuple[_Rounded, ...]]:
    assert scheme.activations is not None
    rows = np.ascontiguousarray(samples.rows)
    importance = sum((_importance(c) for c in layer.convolutions), np.zeros(rows.shape[1]))
    amax = best_range(rows, np.asarray(importance, np.float32), scheme.activations)
    scale = representable_scale(np.array(amax), scheme.activations)
    quantised = fake_quantise(rows, scale, scheme.activations)
    return float(amax), tuple(_round(c, rows, quantised, scheme) for c in layer.convolutions)


def _importance(convolution: Convolution) -> NDArray[np.float64]:
    """Sums of the squared weights that read each input channel, float64 `[C]`."""
    squares = array(convolution.weight).astype(np.float64) ** 2
    outputs, inputs, groups = *squares.shape[:2], convolution.groups
    per_group = squares.reshape(groups, outputs // groups, inputs, -1).sum(axis=(1, 3))
    return np.asarray(per_group.reshape(-1))


def _columns(convolution: Convolution) -> Floats:
    """The weight as float32 `[K, N]`, a column for each output channel."""
    weight = array(convolution.weight)
    return np.ascontiguousarray(weight.reshape(len(weight), -1).T)


def _round(convolution: Convolution, rows: Floats, quantised: Floats, scheme: Scheme) -> _Rounded:
    """Rounds a weight; that of a pointwise convolution like a Linear's, by `grid.round_weights`.

    The errors of larger kernels are estimated as if the input were the same at every position of
    the kernel, because samples hold single positions.
    """
    weight, grid = _columns(convolution), scheme.weights
    taps = array(convolution.weight)[0, 0].size
    if convolution.groups == 1:
        power = np.repeat((quantised**2).mean(axis=0), taps)
    else:
        power = np.ones(len(weight), np.float32)
    scales = weight_scales(weight, power.astype(np.float32), grid, None)
    if convolution.groups == 1 and taps == 1:
        moments = (quantised.T @ quantised).astype(np.float64) / len(quantised)
        numbers = round_weights(weight, scales, moments, grid)
    else:
        numbers = grid.round(weight / scales)
    rounded = numbers * scales
    lost = _means(convolution, rows, weight) - _means(convolution, quantised, rounded)
    few, coarse = thin_out(rows), thin_out(quantised)
    expected = _products(convolution, few, weight)
    errors = expected - _products(convolution, coarse, rounded) - lost
    signal = expected - expected.mean(axis=0)
    return _Rounded(numbers, scales, lost, sqnr_db(signal, errors))


def _means(convolution: Convolution, rows: Floats, weight: Floats) -> Floats:
    """The mean of each output channel; the padding at the borders is ignored."""
    mean = rows.mean(axis=0, dtype=np.float64, keepdims=True).astype(np.float32)
    products: Floats = _products(convolution, mean, weight)[0]
    return products


def _products(convolution: Convolution, rows: Floats, weight: Floats) -> Floats:
    """Outputs for inputs that are the same at every position of the kernel: float32 `[rows, N]`."""
    groups, outputs = convolution.groups, weight.shape[1]
    taps = len(weight) // (rows.shape[1] // groups)
    summed = weight.reshape(-1, taps, groups, outputs // groups).sum(axis=1)
    cut = rows.reshape(len(rows), groups, -1)
    result: Floats = np.einsum("rgk,kgn->rgn", cut, summed).reshape(len(rows), outputs)
    return result


def _write(
    graph: ir.Graph,
    layer: ConvolutionLayer,
    amax: float,
    rounded: tuple[_Rounded, ...],
    scheme: Scheme,
) -> None:
    assert scheme.activations is not None
    scale = representable_scale(np.array(amax, np.float32), scheme.activations)
    read = quantise_activation(graph, layer.activation, scale, scheme.activations)
    for convolution, weight in zip(layer.convolutions, rounded, strict=True):
        node, bias = convolution.node, convolution.bias
        if bias is not None and weight.correction.any():
            corrected = array(bias) + weight.correction
            name = f"{bias.name}/corrected"
            replace_input(node, bias, add_initializer(graph, name, corrected))
        numbers = weight.numbers.T.reshape(array(convolution.weight).shape)
        dequantise_weight(graph, node, convolution.weight, numbers, weight.scales, scheme.weights)
        node.replace_input_with(0, read)
