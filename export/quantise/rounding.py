"""Rounds weights so that the errors of a row cancel in the outputs.

Source: E. Frantar et al., "GPTQ", arXiv 2210.17323: input channels are rounded one after the other,
and the error of each is passed on to those that come after it, by the inverse of the inputs' second
moments.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from .grid import INT8_GRID, Floats, Grid, for_each_weight

_DAMPING = 0.01
_BLOCK = 128

Moments = NDArray[np.float64]


def round_weights(
    weight: Floats, scales: Floats, moments: Moments, grid: Grid = INT8_GRID
) -> Floats:
    """Numbers of `grid`, in fp32, for `weight` `[K, N]`.

    Args:
        weight: What the outputs should be made of.
        scales: float32 `[N]`, or `[K / block, N]`.
        moments: float64 `[K, K]`, the mean of x x^T over the inputs as they are quantised.
        grid: What the weights are rounded to.
    """
    order = np.argsort(-np.diag(moments), kind="stable")  # the channels that matter most go first
    factor = _inverse_factor(moments[np.ix_(order, order)])
    left, steps = weight[order].astype(np.float64), for_each_weight(scales, weight.shape)[order]
    rounded = np.empty_like(left)
    for start in range(0, len(left), _BLOCK):
        stop = min(start + _BLOCK, len(left))
        passed_on = np.empty((stop - start, left.shape[1]))
        for k in range(start, stop):
            rounded[k] = grid.round(left[k].astype(np.float32) / steps[k])
            passed_on[k - start] = (left[k] - rounded[k] * steps[k]) / factor[k, k]
            left[k:stop] -= np.outer(factor[k, k:stop], passed_on[k - start])
        left[stop:] -= factor[start:stop, stop:].T @ passed_on
    result = np.empty(weight.shape, np.float32)
    result[order] = rounded
    return result


def _inverse_factor(moments: Moments) -> Moments:
    """The upper U with U^T U the inverse of the damped moments; damped, for channels that never
    vary.

    With R R^T the moments and R upper, U is the inverse of R, which costs a fraction of inverting
    first.
    """
    damping = max(_DAMPING * float(np.diag(moments).mean()), 1e-12)
    damped = moments + np.diag(np.full(len(moments), damping))
    upper = np.linalg.cholesky(damped[::-1, ::-1])[::-1, ::-1]
    inverse, _ = lapack.dtrtri(np.asfortranarray(upper), lower=0)
    factor: Moments = inverse
    return factor
