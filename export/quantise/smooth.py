"""Moves the outliers of an activation into the weights that read it.

Source: G. Xiao et al., "SmoothQuant", arXiv 2211.10438, equation 4: channel k of the activation is
divided by s_k = max |x_k|^alpha / max |w_k|^(1 - alpha), row k of the weights multiplied. Here
alpha is searched for each site, by the error of the Linears' outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vit_edge.calibration.samples import SiteSamples

from .grid import (
    Floats,
    Scheme,
    cautious_range,
    fake_quantise,
    for_each_weight,
    thin_out,
)
from .shift import centre

ALPHAS = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9)
_QUIET = 0.5
"""Share of the channels that count as no larger than they are at this quantile: their own largest
magnitudes differ most from image to image.
"""
MIN_GAIN = 1.5
"""Factor by which the squared error must fall: what is not an outlier is better left alone."""
_TINY = np.float32(1e-5)
_MAX_FACTOR = np.float32(1e4)


@dataclass(frozen=True)
class Smoothing:
    """Result of the search for a site.

    Attributes:
        alpha: None where nothing is moved.
        factor: float32 `[K]`, the s_k.
        error: Of the outputs, relative.
    """

    alpha: float | None
    factor: Floats
    error: float


def search(
    samples: SiteSamples, weight: Floats, scheme: Scheme, min_gain: float = MIN_GAIN
) -> Smoothing:
    """The alpha with the least output error for the Linears `weight` `[K, N]`; none if that is not
    `min_gain` times less than without.
    """
    seen = samples.channel_amax

    def error_of(rows: Floats, factor: Floats, scaled: Floats, outputs: Floats) -> float:
        return _error(rows, float((seen / factor).max()), scaled, outputs, scheme)

    return search_by(error_of, samples, weight, min_gain)


def search_by(
    error_of: Callable[[Floats, Floats, Floats, Floats], float],
    samples: SiteSamples,
    weight: Floats,
    min_gain: float,
) -> Smoothing:
    """The same by the error of another format.

    Args:
        error_of: Of the smoothed rows, the factors that they were divided by, the weight that was
            multiplied by them, and what the Linears should give out, the relative squared error.
        samples: Those of the site.
        weight: float32 `[K, N]`.
        min_gain: See `search`.
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
    """s_k, such that the largest magnitude of all channels stays what it was: what fitted into 16
    bits still does.
    """
    quiet = np.float32(np.quantile(channel_amax, _QUIET))
    largest, rows = np.maximum(channel_amax, max(quiet, _TINY)), np.abs(weight).max(axis=1)
    factor = largest**alpha / np.maximum(rows, _TINY) ** (1 - alpha)
    factor *= (largest / factor).max() / largest.max()
    clipped: Floats = np.clip(factor, 1 / _MAX_FACTOR, _MAX_FACTOR).astype(np.float32)
    return clipped


def _error(rows: Floats, largest: float, weight: Floats, outputs: Floats, scheme: Scheme) -> float:
    """Relative squared error of the outputs when both are quantised; `largest` is the greatest
    magnitude of all tokens.
    """
    quantised, scales = rows, for_each_weight(scheme.plain_scales(weight), weight.shape)
    if scheme.activations is not None:
        amax = cautious_range(rows, (weight**2).sum(axis=1), largest, scheme.activations)
        shift, scale = centre(rows, amax, scheme.activations)
        quantised = fake_quantise(rows - shift, scale, scheme.activations) + shift
    difference = quantised @ fake_quantise(weight, scales, scheme.weights) - outputs
    return float((difference**2).mean() / max(float((outputs**2).mean()), 1e-30))
