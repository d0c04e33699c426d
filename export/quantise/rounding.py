"""Rounds weights so that the errors of a row cancel in the outputs.

Source: E. Frantar et al., "GPTQ", arXiv 2210.17323: input channels are rounded one after the other,
and the error of each is passed on to those that come after it, by the inverse of the inputs' second
moments.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from .grid import Floats, to_integers

_DAMPING = 0.01
_BLOCK = 128

Moments = NDArray[np.float64]


def round_weights(weight: Floats, scales: Floats, moments: Moments) -> Floats:
    """Integers, in fp32, for `weight` `[K, N]` with a scale for each output.

    Args:
        weight: What the outputs should be made of.
        scales: float32 `[N]`.
        moments: float64 `[K, K]`, the mean of x x^T over the inputs as they are quantised.
    """
    order = np.argsort(-np.diag(moments), kind="stable")  # the channels that matter most go first
    factor = _inverse_factor(moments[np.ix_(order, order)])
    left = weight[order].astype(np.float64)
    integers = np.empty_like(left)
    for start in range(0, len(left), _BLOCK):
        stop = min(start + _BLOCK, len(left))
        passed_on = np.empty((stop - start, left.shape[1]))
        for k in range(start, stop):
            row = left[k].astype(np.float32)
            integers[k] = to_integers(row, scales)
            passed_on[k - start] = (left[k] - integers[k] * scales) / factor[k, k]
            left[k:stop] -= np.outer(factor[k, k:stop], passed_on[k - start])
        left[stop:] -= factor[start:stop, stop:].T @ passed_on
    result = np.empty(weight.shape, np.float32)
    result[order] = integers
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
