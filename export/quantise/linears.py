"""Quantises the Linears of a graph: smoothing, ranges, rounding and biases by what the Linears give
out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from calibration.samples import Samples, SiteSamples
from export.graph_edit import add_initializer, array, replace_input
from export.passes.linears import Linear
from export.progress import Update

from .explanation import SiteExplanation, describe_channels, sqnr_db
from .grid import Floats, best_range, fake_quantise, for_each_weight, representable_scale
from .grid import weight_scales as search_scales
from .qdq import quantise_activation, quantise_weight
from .rounding import Moments, round_weights
from .scheme import Scheme
from .shift import shift_of, subtract
from .sites import NormSource, Site, find_sites, find_source
from .smooth import MIN_GAIN, MIN_GAIN_OF_VALUES, search


@dataclass(frozen=True)
class Smoothed:
    """A site's input after smoothing.

    Attributes:
        rows: float32 `[rows, K]`, the samples as they are then.
        channel_amax: float32 `[K]`, likewise.
        alpha, factor: SmoothQuant's exponent and float32 `[K]`, what the channels were divided by;
            None where nothing was moved.
    """

    rows: Floats
    channel_amax: Floats
    alpha: float | None = None
    factor: Floats | None = None


def smooth_all(
    graph: ir.Graph, samples: Samples, scheme: Scheme, update: Update
) -> dict[str, Smoothed]:
    """Smooths every site in place, which changes no output; returns the sites by name.

    `update` is told sites done and sites in all.
    """
    sites, done = find_sites(graph), dict[str, Smoothed]()
    for site in sites:
        done[site.name] = smooth(graph, site, samples[site.name], scheme)
        update(len(done), len(sites))
    return done


def quantise(
    graph: ir.Graph,
    samples: Samples,
    smoothed: Mapping[str, Smoothed],
    scheme: Scheme,
    update: Update,
) -> tuple[SiteExplanation, ...]:
    """Puts Q/DQ on every quantisable Linear, in place; Linears that share an input share its Q/DQ.

    Args:
        graph: The fp32 graph after `smooth_all`.
        samples: What its sites saw in calibration, before that.
        smoothed: What `smooth_all` returned.
        scheme: The grids.
        update: Is told sites done and sites in all.
    """
    sites, done = find_sites(graph), list[SiteExplanation]()
    for site in sites:
        seen = samples[site.name]
        done.append(_quantise_site(graph, site, seen, smoothed[site.name], scheme))
        update(len(done), len(sites))
    return tuple(done)


def _quantise_site(
    graph: ir.Graph, site: Site, seen: SiteSamples, smoothed: Smoothed, scheme: Scheme
) -> SiteExplanation:
    rows, amax, read, grid = smoothed.rows, None, site.activation, scheme.activations
    quantised, shift = rows, np.float32(0)
    if grid is not None:
        amax = best_range(rows, (site.weights**2).sum(axis=1), grid)
        shift, scale = shift_of(site, rows, amax, grid)
        quantised = fake_quantise(rows - shift, scale, grid) + shift
        read = subtract(graph, read, shift) if shift else read
        read = quantise_activation(graph, read, scale, grid)
    moments = (quantised.T @ quantised).astype(np.float64) / len(quantised)
    noise = {}
    for linear in site.linears:
        expected = rows @ array(linear.weight)
        lost = _quantise_linear(graph, linear, moments, scheme, expected, quantised, shift)
        linear.node.replace_input_with(0, read)
        noise[linear.name] = sqnr_db(expected - expected.mean(axis=0), lost)
    return SiteExplanation(
        site.name,
        smoothed.alpha,
        describe_channels(seen.channel_amax),
        describe_channels(smoothed.channel_amax),
        None if amax is None else float(amax),
        noise,
    )


def _quantise_linear(
    graph: ir.Graph,
    linear: Linear,
    moments: Moments,
    scheme: Scheme,
    expected: Floats,
    quantised: Floats,
    shift: np.float32,
) -> Floats:
    """Rounds the weight and corrects the bias; returns what the outputs `[rows, N]` lose still.

    `quantised` are the inputs on their grid, `shift` is what will be subtracted from them.
    """
    weight, grid = array(linear.weight), scheme.weights
    importance = np.diag(moments).astype(np.float32)
    scales = search_scales(weight, importance, grid, scheme.block_for(len(weight)))
    numbers = round_weights(weight, scales, moments, grid)
    rounded = numbers * for_each_weight(scales, weight.shape)
    lost: Floats = expected - quantised @ rounded
    if linear.bias is not None:
        mean = lost.mean(axis=0)
        _correct_bias(graph, linear, mean + shift * rounded.sum(axis=0))
        lost -= mean
    quantise_weight(graph, linear, numbers, scales, grid)
    return lost


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
            numbers = scheme.weights.round(weight / for_each_weight(scales, weight.shape))
            linear.node.replace_input_with(0, read)
            quantise_weight(graph, linear, numbers, scales, scheme.weights)


def smooth(graph: ir.Graph, site: Site, samples: SiteSamples, scheme: Scheme) -> Smoothed:
    """Moves outliers into the weights where that pays."""
    source, rows = find_source(site), np.ascontiguousarray(samples.rows)
    untouched = Smoothed(rows, samples.channel_amax)
    if source is None:
        return untouched
    min_gain = MIN_GAIN if isinstance(source, NormSource) else MIN_GAIN_OF_VALUES
    found = search(samples, site.weights, scheme, min_gain)
    if found.alpha is None:
        return untouched
    source.scale(graph, (1 / found.factor).astype(np.float32))
    for linear in site.linears:
        name = f"{linear.weight.name}/smoothed"
        scaled = array(linear.weight) * found.factor[:, None]
        replace_input(linear.node, linear.weight, add_initializer(graph, name, scaled))
    rows = np.ascontiguousarray(rows / found.factor)
    return Smoothed(rows, samples.channel_amax / found.factor, found.alpha, found.factor)


def _correct_bias(graph: ir.Graph, linear: Linear, lost: Floats) -> None:
    """Gives back what the outputs lose on average and by the shift, `lost` float32 `[N]`.

    Source: M. Nagel et al., "Data-Free Quantization", arXiv 1906.04721, section 4.2.
    """
    add = linear.output.producer()
    assert linear.bias is not None
    assert add is not None
    corrected = array(linear.bias) + lost
    name = f"{linear.bias.name}/corrected"
    replace_input(add, linear.bias, add_initializer(graph, name, corrected))
