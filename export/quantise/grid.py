"""The INT8 grid: symmetric, scales that fp16 can hold, and the range with the least error."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calibration.observers import INT8_MAX

Floats = NDArray[np.float32]

HEADROOM = 1.05
"""On top of the best range: other images go further than those of the calibration, and clipping
costs more than a coarser grid.
"""
_RATIOS = np.geomspace(0.02, 1.0, 48)
_WEIGHT_RATIOS = np.linspace(0.76, 1.0, 9)
_SEARCH_ROWS = 384


def representable_scale(amax: Floats) -> Floats:
    """`amax / 127`, rounded up to a value that fp16 has: the fp32 and the fp16 graph then hold the
    same integers.
    """
    wanted = np.maximum(amax.astype(np.float32) / INT8_MAX, np.finfo(np.float16).smallest_subnormal)
    scale = wanted.astype(np.float16)
    too_small = scale.astype(np.float32) < wanted
    up = np.nextafter(scale, np.float16(np.inf), dtype=np.float16)
    return np.where(too_small, up, scale).astype(np.float32)


def to_integers(values: Floats, scale: Floats) -> Floats:
    """Rounded and clipped, still in fp32."""
    integers: Floats = np.clip(np.rint(values / scale), -INT8_MAX, INT8_MAX)
    return integers


def fake_quantise(values: Floats, scale: Floats) -> Floats:
    """What a QuantizeLinear and DequantizeLinear make of `values`."""
    return to_integers(values, scale) * scale


def thin_out(rows: Floats) -> Floats:
    """Every n-th row: enough to search on."""
    return np.ascontiguousarray(rows[:: max(1, len(rows) // _SEARCH_ROWS)])


def best_range(rows: Floats, importance: Floats) -> np.float32:
    """The magnitude to represent at most: least squared error over `rows` `[rows, K]`, channel k
    weighted by `importance[k]`, what its errors do to the outputs; and some headroom.
    """
    largest = float(np.abs(rows).max())
    if largest == 0:
        return np.float32(0)
    few, errors = thin_out(rows), []
    for ratio in _RATIOS:
        scale = representable_scale(np.array(largest * ratio))
        lost = fake_quantise(few, scale) - few
        errors.append(float(np.einsum("rk,rk->k", lost, lost) @ importance))
    return np.float32(HEADROOM * largest * _RATIOS[int(np.argmin(errors))])


def weight_scales(weight: Floats, importance: Floats) -> Floats:
    """A scale for each output channel of `weight` `[K, N]`: least squared error, input channel k
    weighted by `importance[k]`, its mean square.
    """
    largest = np.abs(weight).max(axis=0)
    best = representable_scale(largest)
    least = importance @ (fake_quantise(weight, best) - weight) ** 2
    for ratio in _WEIGHT_RATIOS[:-1]:
        scale = representable_scale(largest * np.float32(ratio))
        error = importance @ (fake_quantise(weight, scale) - weight) ** 2
        better = error < least
        best, least = np.where(better, scale, best), np.where(better, error, least)
    return best
