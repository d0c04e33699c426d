"""Quantises the Linears of a graph to INT8: smoothing, ranges, rounding and biases by what the
Linears give out.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from calibration.samples import Samples, SiteSamples
from export.graph_edit import add_initializer, array, replace_input
from export.passes.linears import Linear

from .grid import Floats, best_range, fake_quantise, representable_scale, to_integers, weight_scales
from .qdq import quantise_activation, quantise_weight
from .rounding import round_weights
from .shift import shift_of, subtract
from .sites import NormSource, Site, find_sites, find_source
from .smooth import MIN_GAIN, MIN_GAIN_OF_VALUES, search


def quantise(graph: ir.Graph, samples: Samples) -> None:
    """Smooths, then puts Q/DQ on every quantisable Linear, in place; Linears that share an input
    share its Q/DQ.

    Args:
        graph: The optimised fp32 graph.
        samples: What its sites saw in calibration.
    """
    smoothed = {site.name: smooth(graph, site, samples[site.name]) for site in find_sites(graph)}
    for site in find_sites(graph):
        rows = smoothed[site.name]
        amax = best_range(rows, (site.weights**2).sum(axis=1))
        shift, scale = shift_of(site, rows, amax)
        quantised = fake_quantise(rows - shift, scale) + shift
        moments = (quantised.T @ quantised).astype(np.float64) / len(quantised)
        centred = subtract(graph, site.activation, shift) if shift else site.activation
        dequantised = quantise_activation(graph, centred, scale)
        for linear in site.linears:
            weight = array(linear.weight)
            scales = weight_scales(weight, np.diag(moments).astype(np.float32))
            integers = round_weights(weight, scales, moments)
            if linear.bias is not None:
                rounded = integers * scales
                lost = (rows @ weight - quantised @ rounded).mean(axis=0)
                _correct_bias(graph, linear, lost + shift * rounded.sum(axis=0))
            linear.node.replace_input_with(0, dequantised)
            quantise_weight(graph, linear, integers, scales)


def quantise_by_table(graph: ir.Graph, amax: Mapping[str, float]) -> None:
    """Plain post-training quantisation: ranges as an observer gave them, weights rounded to the
    nearest.
    """
    for site in find_sites(graph):
        scale = representable_scale(np.array(amax[site.name]))
        dequantised = quantise_activation(graph, site.activation, scale)
        for linear in site.linears:
            weight = array(linear.weight)
            scales = representable_scale(np.abs(weight).max(axis=0))
            linear.node.replace_input_with(0, dequantised)
            quantise_weight(graph, linear, to_integers(weight, scales), scales)


def smooth(graph: ir.Graph, site: Site, samples: SiteSamples) -> Floats:
    """Moves outliers into the weights where that pays; returns the rows as they are then."""
    source, rows = find_source(site), np.ascontiguousarray(samples.rows)
    if source is None:
        return rows
    min_gain = MIN_GAIN if isinstance(source, NormSource) else MIN_GAIN_OF_VALUES
    found = search(samples, site.weights, min_gain)
    if found.alpha is None:
        return rows
    source.scale(graph, (1 / found.factor).astype(np.float32))
    for linear in site.linears:
        name = f"{linear.weight.name}/smoothed"
        scaled = array(linear.weight) * found.factor[:, None]
        replace_input(linear.node, linear.weight, add_initializer(graph, name, scaled))
    return np.ascontiguousarray(rows / found.factor)


def _correct_bias(graph: ir.Graph, linear: Linear, lost: Floats) -> None:
    """Gives back what the outputs lost on average, and by the shift: `lost` float32 `[N]`.

    Source: M. Nagel et al., "Data-Free Quantization", arXiv 1906.04721, section 4.2.
    """
    add = linear.output.producer()
    assert linear.bias is not None
    assert add is not None
    corrected = array(linear.bias) + lost
    name = f"{linear.bias.name}/corrected"
    replace_input(add, linear.bias, add_initializer(graph, name, corrected))
