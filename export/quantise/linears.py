"""Quantises the Linears of a graph: smoothing, ranges, rounding and biases by what the Linears give
out; writes their Q/DQ pairs.

Source: ONNX QuantizeLinear, DequantizeLinear; zero point 0, as TensorRT wants it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vit_edge.calibration.collect import Samples, SiteSamples
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
from .site_search import RoundedSite, Smoothing, divide, search, search_site, subtract
from .sites import (
    Site,
    SiteExplanation,
    describe_channels,
    find_scalable,
    find_sites,
    is_behind_gelu,
    parallel_map,
)

BLOCKS_OPSET = 21
"""The opset from which DequantizeLinear knows 4 bits and blocks."""


def quantise_activation(graph: ir.Graph, value: ir.Value, scale: Floats, grid: Grid) -> ir.Value:
    """Adds Q/DQ behind `value` and returns its output; `scale` is a number."""
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
    """A site's input after smoothing.

    Attributes:
        rows: float32 `[rows, K]`, the samples as they are then.
        channel_amax: float32 `[K]`, likewise.
        alpha, factor: SmoothQuant's exponent and float32 `[K]`, what the channels were divided by;
            None where nothing was moved.
        inside: True if the quantised layer itself divides by `factor`: behind a GELU nothing before
            it can be scaled.
    """

    rows: Floats
    channel_amax: Floats
    alpha: float | None = None
    factor: Floats | None = None
    inside: bool = False


def smooth_all(
    graph: ir.Graph, samples: Samples, scheme: Scheme, update: Update
) -> dict[str, Smoothed]:
    """Smooths every site in place, which changes no output; returns the sites by name.

    `update` is called with sites done and sites in all.
    """

    def search_one(site: Site) -> Smoothing | None:
        if find_scalable(site) is None:
            return None
        return search(samples[site.name], site.weights, scheme)

    return smooth_by(search_one, graph, samples, update)


def divide_all(
    graph: ir.Graph, samples: Samples, scheme: Scheme, update: Update
) -> dict[str, Smoothed]:
    """Searches what the channels behind each GELU could be divided by inside the quantised layer,
    at the price of a multiplication there; the graph stays as it is.

    Returns:
        The sites whose own error falls by `smooth.MIN_GAIN`, by name. What the outputs gain is
        another question, see `choice`.
    """
    if scheme.activations is None:
        return {}
    sites, divided = [site for site in find_sites(graph) if is_behind_gelu(site)], {}

    def search_one(site: Site) -> Smoothing:
        return search(samples[site.name], site.weights, scheme)

    for done, (site, found) in enumerate(zip(sites, parallel_map(search_one, sites), strict=True)):
        if found.alpha is not None:
            divided[site.name] = _smoothed(samples[site.name], found, inside=True)
        update(done + 1, len(sites))
    return divided


def smooth_by(
    search_one: Callable[[Site], Smoothing | None],
    graph: ir.Graph,
    samples: Samples,
    update: Update,
) -> dict[str, Smoothed]:
    """Smooths every site in place as `search_one` chooses, see `smooth_all`."""
    sites, done = find_sites(graph), dict[str, Smoothed]()
    for site, smoothing in zip(sites, parallel_map(search_one, sites), strict=True):
        done[site.name] = smooth(graph, site, samples[site.name], smoothing)
        update(len(done), len(sites))
    return done


def round_all(
    graph: ir.Graph,
    smoothed: Mapping[str, Smoothed],
    scheme: Scheme,
    update: Update,
    rounding: Rounding = round_weights,
) -> dict[str, RoundedSite]:
    """Searches ranges, rounding and biases of every site in `smoothed`; returns them by name.

    Args:
        graph: The fp32 graph after `smooth_all`; it stays as it is.
        smoothed: The result of `smooth_all`, sites of `divide_all` in place of theirs.
        scheme: The grids.
        update: Called with sites done and sites in all.
        rounding: How weights are rounded.
    """
    sites = [site for site in find_sites(graph) if site.name in smoothed]
    done = dict[str, RoundedSite]()

    def search_one(site: Site) -> RoundedSite:
        seen = smoothed[site.name]
        factor = seen.factor if seen.inside else None
        return search_site(
            site, seen.rows, float(seen.channel_amax.max()), scheme, factor, rounding
        )

    for site, rounded in zip(sites, parallel_map(search_one, sites), strict=True):
        done[site.name] = rounded
        update(len(done), len(sites))
    return done


def quantise(graph: ir.Graph, rounded: Mapping[str, RoundedSite], scheme: Scheme) -> None:
    """Puts Q/DQ on the Linears of every site in `rounded`, in place; Linears that share an input
    share its Q/DQ.
    """
    for site in find_sites(graph):
        if site.name in rounded:
            _quantise(graph, site, rounded[site.name], scheme)


def explain(
    graph: ir.Graph,
    samples: Samples,
    smoothed: Mapping[str, Smoothed],
    rounded: Mapping[str, RoundedSite],
) -> tuple[SiteExplanation, ...]:
    """Says what was decided about every site in `rounded`, in graph order.

    Args:
        graph: The fp32 graph after `smooth_all`.
        samples: The samples of its sites in calibration, before that.
        smoothed: What `smooth_all` and `divide_all` found.
        rounded: What `round_all` did.
    """
    return tuple(
        _explain(site, samples[site.name], smoothed[site.name], rounded[site.name])
        for site in find_sites(graph)
        if site.name in rounded
    )


def _quantise(graph: ir.Graph, site: Site, rounded: RoundedSite, scheme: Scheme) -> None:
    """Puts Q/DQ on a site's activation and on its Linears' weights."""
    read = site.activation
    if rounded.scale is not None and scheme.activations is not None:
        read = divide(graph, read, rounded.factor) if rounded.factor is not None else read
        read = subtract(graph, read, rounded.shift) if rounded.shift else read
        read = quantise_activation(graph, read, rounded.scale, scheme.activations)
    for linear, weight in zip(site.linears, rounded.linears, strict=True):
        if weight.correction is not None:
            correct_bias(graph, linear, weight.correction)
        quantise_weight(graph, linear, weight.numbers, weight.scales, scheme.weights)
        linear.node.replace_input_with(0, read)


def _explain(
    site: Site, seen: SiteSamples, smoothed: Smoothed, rounded: RoundedSite
) -> SiteExplanation:
    return SiteExplanation(
        site.name,
        smoothed.alpha,
        describe_channels(seen.channel_amax),
        describe_channels(smoothed.channel_amax),
        rounded.amax,
        {
            linear.name: weight.sqnr_db
            for linear, weight in zip(site.linears, rounded.linears, strict=True)
        },
    )


def quantise_by_table(graph: ir.Graph, amax: Mapping[str, float], scheme: Scheme) -> None:
    """Plain post-training quantisation: ranges as an observer gave them, weights rounded to the
    nearest.
    """
    for site in find_sites(graph):
        read = site.activation
        if scheme.activations is not None:
            scale = representable_scale(np.array(amax[site.name]), scheme.activations)
            read = quantise_activation(graph, site.activation, scale, scheme.activations)
        for linear in site.linears:
            weight = array(linear.weight)
            scales = scheme.plain_scales(weight)
            numbers = round_to_nearest(weight, scales, scheme.weights)
            linear.node.replace_input_with(0, read)
            quantise_weight(graph, linear, numbers, scales, scheme.weights)


def smooth(graph: ir.Graph, site: Site, samples: SiteSamples, chosen: Smoothing | None) -> Smoothed:
    """Moves the outliers as the search chose, where that pays."""
    source = find_scalable(site)
    if chosen is None or chosen.alpha is None or source is None:
        return Smoothed(np.ascontiguousarray(samples.rows), samples.channel_amax)
    source.scale(graph, (1 / chosen.factor).astype(np.float32))
    for linear in site.linears:
        name = f"{linear.weight.name}/smoothed"
        scaled = array(linear.weight) * chosen.factor[:, None]
        replace_input(linear.node, linear.weight, add_initializer(graph, name, scaled))
    return _smoothed(samples, chosen, inside=False)


def _smoothed(samples: SiteSamples, chosen: Smoothing, inside: bool) -> Smoothed:
    rows = np.ascontiguousarray(samples.rows / chosen.factor)
    amax = samples.channel_amax / chosen.factor
    return Smoothed(rows, amax, chosen.alpha, chosen.factor, inside)


def correct_bias(graph: ir.Graph, linear: Linear, correction: Floats) -> None:
    """Adds `correction` `[N]` to the Linear's bias, which it has."""
    add = linear.output.producer()
    assert linear.bias is not None
    assert add is not None
    corrected = array(linear.bias) + correction
    name = f"{linear.bias.name}/corrected"
    replace_input(add, linear.bias, add_initializer(graph, name, corrected))
