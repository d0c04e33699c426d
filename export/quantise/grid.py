"""Grids of the numbers that a quantised type has, all symmetric; the scales with the least error on
them; and the rounding of weights to them so that errors cancel in the outputs.

Source of the rounding: E. Frantar et al., "GPTQ", arXiv 2210.17323: input channels are rounded one
after the other, and later ones compensate for the error of earlier ones. It is computed as LDLQ of
J. Chee et al., "QuIP", arXiv 2307.13304, section 4.1, which they prove to be equivalent: from the
factors of the inputs' second moments, not of their inverse, and with errors summed up where they
are needed, not passed on to all remaining channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from scipy.linalg import cholesky

from vit_edge.calibration.observers import INT8_MAX

Floats = NDArray[np.float32]

MIN_GAIN_OF_CLIPPING = 3.0
"""Factor by which clipping must lower the squared error; else nothing of the samples is clipped.
The largest magnitudes belong to a few tokens, as those of massive activations, on which all others
depend.
"""
WIDE_HEADROOM = 1.2
"""Headroom of a range that clips nothing, where it costs little."""
HEADROOM = 1.05
"""Headroom of the best range: other images exceed the range of the calibration images, and clipping
costs more than a coarser grid.
"""
_RATIOS = np.geomspace(0.02, 1.0, 48)
_WEIGHT_RATIOS = np.linspace(0.76, 1.0, 9)
_SEARCH_ROWS = 384
_SMALLEST_BLOCK = 16
_SMALLEST_EXPONENT, _MANTISSA_BITS = np.uint32(127 - 6), np.uint32(3)
"""Of E4M3; the exponent has float32's bias."""
_ONE = np.uint32(127)
"""The exponent of 1, with float32's bias."""


class Grid(Protocol):
    """Numbers that a type can hold, in units of the scale.

    Attributes:
        name: Shown to people.
        dtype: The ONNX type of the numbers.
        largest: The largest of them.
        clips_from: The magnitude from which numbers are clipped, not rounded, to the largest.
    """

    @property
    def name(self) -> str: ...

    @property
    def dtype(self) -> ir.DataType: ...

    @property
    def largest(self) -> float: ...

    @property
    def clips_from(self) -> float: ...

    def round(self, values: Floats) -> Floats:
        """Rounds to the nearest numbers, clipped at the largest; the result is float32."""


@dataclass(frozen=True)
class IntegerGrid:
    """Integers from -largest to largest."""

    name: str
    dtype: ir.DataType
    largest: float

    @property
    def clips_from(self) -> float:
        """See `Grid`."""
        return self.largest + 0.5

    def round(self, values: Floats) -> Floats:
        """See `Grid`."""
        integers: Floats = np.clip(np.rint(values), -self.largest, self.largest)
        return integers


@dataclass(frozen=True)
class Float8Grid:
    """E4M3 without infinities. Source: P. Micikevicius et al., arXiv 2209.05433."""

    name: str = "fp8"
    dtype: ir.DataType = ir.DataType.FLOAT8E4M3FN
    largest: float = 448.0
    clips_from: float = 464.0

    def round(self, values: Floats) -> Floats:
        """See `Grid`. Uses float32's bits: conversion to E4M3 and back takes ten times as long."""
        clipped = np.clip(values, -self.largest, self.largest)  # beyond it there is only NaN
        exponent = np.maximum(clipped.view(np.uint32) >> 23 & 0xFF, _SMALLEST_EXPONENT)
        step = (exponent - _MANTISSA_BITS << 23).view(np.float32)
        rounded: Floats = np.rint(clipped / step) * step
        return rounded


@dataclass(frozen=True)
class Float4Grid:
    """E2M1: zero, a half, and 1 and 1.5 times 1, 2 and 4. Source: Open Compute Project, OCP
    Microscaling Formats (MX) Specification, version 1.0.
    """

    name: str = "fp4"
    dtype: ir.DataType = ir.DataType.FLOAT4E2M1
    largest: float = 6.0
    clips_from: float = 7.0

    def round(self, values: Floats) -> Floats:
        """See `Grid`. Halfway values go to the number with the even code."""
        clipped = np.clip(values, -self.largest, self.largest)
        exponent = np.clip(clipped.view(np.uint32) >> 23 & 0xFF, _ONE, None)
        step = (exponent - np.uint32(1) << 23).view(np.float32)
        rounded: Floats = np.rint(clipped / step) * step
        return rounded


INT8_GRID = IntegerGrid("int8", ir.DataType.INT8, float(INT8_MAX))
INT4_GRID = IntegerGrid("int4", ir.DataType.INT4, 7.0)
FP8_GRID = Float8Grid()
FP4_GRID = Float4Grid()
GRIDS: dict[ir.DataType, Grid] = {
    grid.dtype: grid for grid in (INT8_GRID, INT4_GRID, FP8_GRID, FP4_GRID)
}
"""The grid of each ONNX type that quantised numbers are stored in."""


@dataclass(frozen=True)
class Scheme:
    """Grids that a precision quantises to.

    Attributes:
        weights: The grid of the Linears' weights.
        activations: The grid of the Linears' inputs; None: they are not quantised.
        block: Number of input channels that share a scale; None: all. See `block_for` where it
            does not divide their number.
        attention: The grid of Q, K, V and the attention weights; None: they are not quantised.
        fallback: The scheme of layers that fall back; None: they are not quantised.
    """

    weights: Grid
    activations: Grid | None
    block: int | None = None
    attention: Grid | None = None
    fallback: Scheme | None = None

    def __str__(self) -> str:
        """Name for people; precisions that differ only in their budgets have equal schemes."""
        return self.weights.name + (" with attention" if self.attention is not None else "")

    def block_for(self, channels: int) -> int | None:
        """The block, halved down to 16 until it divides `channels`; `channels` if none does."""
        block = self.block
        while block is not None and channels % block:
            block = block // 2 if block > _SMALLEST_BLOCK else channels
        return block

    def plain_scales(self, weight: Floats) -> Floats:
        """Scales of `weight` `[K, N]` that clip nothing."""
        return plain_scales(weight, self.weights, self.block_for(len(weight)))


def representable_scale(amax: Floats, grid: Grid = INT8_GRID) -> Floats:
    """`amax / grid.largest`, rounded up to a value that fp16 can represent, so that fp32 and fp16
    graphs hold the same scale.
    """
    exact = amax.astype(np.float32) / np.float32(grid.largest)
    exact = np.maximum(exact, np.finfo(np.float16).smallest_subnormal)
    scale = exact.astype(np.float16)
    too_small = scale.astype(np.float32) < exact
    up = np.nextafter(scale, np.float16(np.inf), dtype=np.float16)
    result: Floats = np.where(too_small, up, scale).astype(np.float32)
    return result


def fake_quantise(values: Floats, scale: Floats, grid: Grid = INT8_GRID) -> Floats:
    """Passes `values` through QuantizeLinear and DequantizeLinear."""
    return grid.round(values / scale) * scale


def thin_out(rows: Floats) -> Floats:
    """Returns every n-th row, which is enough for a search."""
    return np.ascontiguousarray(rows[:: max(1, len(rows) // _SEARCH_ROWS)])


def best_range(rows: Floats, importance: Floats, grid: Grid = INT8_GRID) -> np.float32:
    """The largest magnitude to represent: the one with the least squared error over `rows`
    `[rows, K]`, plus headroom. `importance[k]` is the weight of channel k's errors in the outputs.
    """
    return np.float32(HEADROOM * _search_range(rows, importance, grid)[0])


def cautious_range(
    rows: Floats, importance: Floats, largest: float, grid: Grid = INT8_GRID
) -> np.float32:
    """The range of `best_range`; if clipping gains little, one that holds `largest`, the greatest
    magnitude of all tokens.
    """
    best, gain = _search_range(rows, importance, grid)
    if gain > MIN_GAIN_OF_CLIPPING:
        return np.float32(HEADROOM * best)
    return np.float32(WIDE_HEADROOM * largest)


def _search_range(rows: Floats, importance: Floats, grid: Grid) -> tuple[float, float]:
    """The largest magnitude to represent, and the factor by which it lowers the squared error
    compared with clipping nothing.
    """
    largest = float(np.abs(rows).max())
    if largest == 0:
        return 0.0, 1.0
    few, errors = thin_out(rows), []
    for ratio in _RATIOS:
        scale = representable_scale(np.array(largest * ratio), grid)
        lost = fake_quantise(few, scale, grid) - few
        errors.append(float(np.einsum("rk,rk->k", lost, lost) @ importance))
    best = int(np.argmin(errors))
    return largest * float(_RATIOS[best]), errors[-1] / max(errors[best], 1e-30)


def plain_scales(weight: Floats, grid: Grid, block: int | None) -> Floats:
    """Scales `[N]` of `weight` `[K, N]` that clip nothing; with a block, `[K / block, N]`."""
    return representable_scale(np.abs(in_blocks(weight, block)).max(axis=-2), grid)


def weight_scales(weight: Floats, importance: Floats, grid: Grid, block: int | None) -> Floats:
    """Scales shaped as those of `plain_scales`, but with the least squared error, input channel k
    weighted by `importance[k]`, its mean square.
    """
    parts, weights = in_blocks(weight, block), in_blocks(importance[:, None], block)
    largest = np.abs(parts).max(axis=-2)
    best: Floats = np.empty_like(largest)
    least = np.full_like(largest, np.inf)
    for ratio in _WEIGHT_RATIOS[::-1]:
        scale = representable_scale(largest * np.float32(ratio), grid)
        lost = fake_quantise(parts, scale[..., None, :], grid) - parts
        error = (weights * lost**2).sum(axis=-2)
        best = np.where(error < least, scale, best)
        least = np.minimum(error, least)
    return best


def in_blocks(weight: Floats, block: int | None) -> Floats:
    """`weight` `[K, N]` as `[K / block, block, N]`, or as it is without blocks."""
    return weight if block is None else weight.reshape(-1, block, weight.shape[1])


def for_each_weight(scales: Floats, shape: tuple[int, ...]) -> Floats:
    """`scales` `[N]` or `[K / block, N]` as `[K, N]`, one for each weight."""
    if scales.ndim == 1:
        return np.broadcast_to(scales, shape)
    return np.repeat(scales, shape[0] // len(scales), axis=0)


_DAMPING = 0.01
_BLOCK = 128

SecondMoments = NDArray[np.float64]
Rounding = Callable[[Floats, Floats, SecondMoments, Grid], Floats]
"""`round_weights`, or a function that takes its place."""


def round_to_nearest(weight: Floats, scales: Floats, grid: Grid) -> Floats:
    """Numbers of `grid`, in fp32, for `weight` `[K, N]`, each rounded to nearest on its own."""
    return grid.round(weight / for_each_weight(scales, weight.shape))


def round_weights(
    weight: Floats, scales: Floats, moments: SecondMoments, grid: Grid = INT8_GRID
) -> Floats:
    """Numbers of `grid`, in fp32, for `weight` `[K, N]`, rounded so that errors cancel.

    Args:
        weight: The exact weight.
        scales: float32 `[N]`, or `[K / block, N]`.
        moments: float64 `[K, K]`, the mean of x x^T over the quantised inputs.
        grid: The grid that weights are rounded to.
    """
    order = np.argsort(np.diag(moments), kind="stable")  # used from the end: most important first
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
    """The unit lower L with L D L^T equal to the moments, damped for channels that never vary.

    Column k holds the factors by which channel k compensates for the errors of those behind it.
    """
    damping = max(_DAMPING * float(np.diag(moments).mean()), 1e-12)
    np.fill_diagonal(moments, np.diag(moments) + damping)
    factor: SecondMoments = cholesky(moments.T, lower=True, overwrite_a=True, check_finite=False)
    factor /= np.diag(factor).copy()
    return factor.astype(np.float32)
