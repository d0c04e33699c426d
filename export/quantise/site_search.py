"""Searches the grids of one site and its weights, by the outputs of its Linears.

Nothing here changes the graph, so that sites can be worked on side by side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vit_edge.export.graph_edit import array
from vit_edge.export.passes.linears import Linear

from .explanation import sqnr_db
from .grid import Floats, Scheme, cautious_range, fake_quantise, for_each_weight, thin_out
from .grid import weight_scales as search_scales
from .rounding import Rounding, SecondMoments, round_weights
from .shift import shift_of
from .sites import Site


@dataclass(frozen=True)
class RoundedLinear:
    """A Linear's weight on its grid.

    Attributes:
        numbers: float32 `[K, N]`, of the grid.
        scales: float32 `[N]` or `[K / block, N]`.
        correction: float32 `[N]`, to be added to the bias: what the outputs lose on average, and
            by the shift of the inputs. None without a bias.
        sqnr_db: Of the outputs, on some of the samples.
    """

    numbers: Floats
    scales: Floats
    correction: Floats | None
    sqnr_db: float


@dataclass(frozen=True)
class RoundedSite:
    """A site's grid, and its Linears' weights.

    Attributes:
        amax: The largest magnitude that its grid represents; None where activations stay as they
            are.
        scale: float32 `[]`, likewise.
        factor: float32 `[K]`, what the activations are divided by first; None for nothing.
        shift: What is subtracted from them then; 0 for nothing.
        linears: In the order of `Site.linears`.
    """

    amax: float | None
    scale: Floats | None
    factor: Floats | None
    shift: np.float32
    linears: tuple[RoundedLinear, ...]


def search_site(
    site: Site,
    rows: Floats,
    largest: float,
    scheme: Scheme,
    factor: Floats | None = None,
    rounding: Rounding = round_weights,
) -> RoundedSite:
    """Ranges, rounding and biases.

    Args:
        site: The site, after smoothing.
        rows: float32 `[rows, K]`, samples of its activations, likewise.
        largest: The greatest magnitude of all its activations, likewise.
        scheme: The grids.
        factor: float32 `[K]`, what the layer itself divides its input by: `rows` and `largest` are
            of the quotient already, the site's weights not; None for nothing.
        rounding: How weights are rounded.
    """
    weights = [_multiplied(array(linear.weight), factor) for linear in site.linears]
    amax, scale, grid = None, None, scheme.activations
    quantised, shift = rows, np.float32(0)
    if grid is not None:
        importance = sum(np.square(weight).sum(axis=1) for weight in weights)
        best = cautious_range(rows, np.asarray(importance), largest, grid)
        shift, scale = shift_of(site, rows, best, grid)
        quantised, amax = fake_quantise(rows - shift, scale, grid) + shift, float(best)
    moments = (quantised.T @ quantised).astype(np.float64) / len(quantised)
    linears = (
        _round(linear, weight, moments, scheme, rows, quantised, shift, rounding)
        for linear, weight in zip(site.linears, weights, strict=True)
    )
    return RoundedSite(amax, scale, factor, shift, tuple(linears))


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
    """`quantised` are `rows` on their grid, `shift` is what will be subtracted from them."""
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
