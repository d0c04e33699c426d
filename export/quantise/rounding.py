"""Rounds weights so that the errors of a row cancel in the outputs.

Source: E. Frantar et al., "GPTQ", arXiv 2210.17323: input channels are rounded one after the other,
and the error of each is made up for by those that come after it. Computed as J. Chee et al.,
"QuIP", arXiv 2307.13304, section 4.1, do, who prove their LDLQ to be the same: with the factors of
the inputs' second moments themselves, not of their inverse, and errors gathered where they are
needed instead of passed on to all that is left.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky

from .grid import INT8_GRID, Floats, Grid, for_each_weight

_DAMPING = 0.01
_BLOCK = 128

SecondMoments = NDArray[np.float64]
Rounding = Callable[[Floats, Floats, SecondMoments, Grid], Floats]
"""`round_weights`, or a function that takes its place."""


def round_to_nearest(weight: Floats, scales: Floats, grid: Grid) -> Floats:
    """Numbers of `grid`, in fp32, for `weight` `[K, N]`, each rounded by itself."""
    return grid.round(weight / for_each_weight(scales, weight.shape))


def round_weights(
    weight: Floats, scales: Floats, moments: SecondMoments, grid: Grid = INT8_GRID
) -> Floats:
    """Numbers of `grid`, in fp32, for `weight` `[K, N]`.

    Args:
        weight: What the outputs should be made of.
        scales: float32 `[N]`, or `[K / block, N]`.
        moments: float64 `[K, K]`, the mean of x x^T over the inputs as they are quantised.
        grid: What the weights are rounded to.
    """
    order = np.argsort(np.diag(moments), kind="stable")  # from the end on: what matters most first
    feedback = _feedback(moments[np.ix_(order, order)])
    exact, steps = weight[order], for_each_weight(scales, weight.shape)[order]
    rounded, errors = np.empty(weight.shape, np.float32), np.empty_like(exact)
    for stop in range(len(exact), 0, -_BLOCK):
        start = max(0, stop - _BLOCK)
        targets = exact[start:stop] + feedback[stop:, start:stop].T @ errors[stop:]
        for k in reversed(range(start, stop)):
            targets[k - start] += feedback[k + 1 : stop, k] @ errors[k + 1 : stop]
            rounded[k] = grid.round(targets[k - start] / steps[k])
            errors[k] = exact[k] - rounded[k] * steps[k]
    result = np.empty(weight.shape, np.float32)
    result[order] = rounded
    return result


def _feedback(moments: SecondMoments) -> Floats:
    """The unit lower L with L D L^T the damped moments; damped, for channels that never vary.

    Its column k says how channel k makes up for the errors of those behind it.
    """
    damping = max(_DAMPING * float(np.diag(moments).mean()), 1e-12)
    np.fill_diagonal(moments, np.diag(moments) + damping)
    factor: SecondMoments = cholesky(moments.T, lower=True, overwrite_a=True, check_finite=False)
    factor /= np.diag(factor).copy()
    return factor.astype(np.float32)
