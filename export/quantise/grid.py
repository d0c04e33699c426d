"""Grids of numbers that a quantised type has, all symmetric, the scales that lose the least on
them, and the rounding of weights to them so that the errors of a row cancel in the outputs.

Source of the rounding: E. Frantar et al., "GPTQ", arXiv 2210.17323: input channels are rounded one
after the other, and the error of each is made up for by those that come after it. Computed as J.
Chee et al., "QuIP", arXiv 2307.13304, section 4.1, do, who prove their LDLQ to be the same: with
the factors of the inputs' second moments themselves, not of their inverse, and errors gathered
where they are needed instead of passed on to all that is left.
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
"""Factor by which clipping must lower the squared error, or nothing of the samples is clipped:
what goes far are a few tokens, such as those of massive activations, on which all others hang.
"""
WIDE_HEADROOM = 1.2
"""On top of a range that clips nothing: it costs little there."""
HEADROOM = 1.05
"""On top of the best range: other images go further than those of the calibration, and clipping
costs more than a coarser grid.
"""
_RATIOS = np.geomspace(0.02, 1.0, 48)
_WEIGHT_RATIOS = np.linspace(0.76, 1.0, 9)
_SEARCH_ROWS = 384
_SMALLEST_BLOCK = 16
_SMALLEST_EXPONENT, _MANTISSA_BITS = np.uint32(127 - 6), np.uint32(3)
"""Of E4M3; the exponent with the bias that float32 has."""
_ONE = np.uint32(127)
"""The exponent of 1, with the bias that float32 has."""


class Grid(Protocol):
    """Numbers that a type can hold, in units of the scale.

    Attributes:
        name: For people.
        dtype: The ONNX type of the numbers.
        largest: The largest of them.
        clips_from: The magnitude from which on numbers are clipped, not rounded, to the largest.
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
        """The nearest numbers, values beyond the largest clipped; still float32."""


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
        """See `Grid`. By float32's own bits: converting there and back takes ten times as long."""
        clipped = np.clip(values, -self.largest, self.largest)  # beyond them there is only NaN
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
        """See `Grid`. Halfway goes to the number of even code, as in all steps of one size."""
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
"""The whole grid of each ONNX type that quantised numbers are stored in."""


@dataclass(frozen=True)
class Scheme:
    """Grids that a precision quantises to.

    Attributes:
        weights: The grid of the Linears' weights.
        activations: The grid of the Linears' inputs; None: they stay as they are.
        block: Number of input channels that share a scale; None: all. It is halved where it does
            not divide their number.
        attention: The grid of Q, K, V and the attention weights; None: they stay as they are.
        fallback: The scheme of layers that fall back; None: they stay as they are.
    """

    weights: Grid
    activations: Grid | None
    block: int | None = None
    attention: Grid | None = None
    fallback: Scheme | None = None

    def __str__(self) -> str:
        """Name for people; schemes of precisions that differ in their budgets alone are equal."""
        return self.weights.name + (" with attention" if self.attention is not None else "")

    def block_for(self, channels: int) -> int | None:
        """The block of a weight with that many input channels."""
        block = self.block
        while block is not None and channels % block:
            block = block // 2 if block > _SMALLEST_BLOCK else channels
        return block

    def plain_scales(self, weight: Floats) -> Floats:
        """Scales of `weight` `[K, N]` that clip nothing."""
        return plain_scales(weight, self.weights, self.block_for(len(weight)))


def representable_scale(amax: Floats, grid: Grid = INT8_GRID) -> Floats:
    """`amax / grid.largest`, rounded up to a value that fp16 has: the fp32 and the fp16 graph then
    hold the same numbers.
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
    """Every n-th row: enough to search on."""
    return np.ascontiguousarray(rows[:: max(1, len(rows) // _SEARCH_ROWS)])


def best_range(rows: Floats, importance: Floats, grid: Grid = INT8_GRID) -> np.float32:
    """The magnitude to represent at most: least squared error over `rows` `[rows, K]`, channel k
    weighted by `importance[k]`, what its errors do to the outputs; and some headroom.
    """
    return np.float32(HEADROOM * _search_range(rows, importance, grid)[0])


def cautious_range(
    rows: Floats, importance: Floats, largest: float, grid: Grid = INT8_GRID
) -> np.float32:
    """The range of `best_range`, or one that holds `largest`, the greatest magnitude of all tokens,
    where clipping gains little.
    """
    best, gain = _search_range(rows, importance, grid)
    if gain > MIN_GAIN_OF_CLIPPING:
        return np.float32(HEADROOM * best)
    return np.float32(WIDE_HEADROOM * largest)


def _search_range(rows: Floats, importance: Floats, grid: Grid) -> tuple[float, float]:
    """The magnitude to represent at most, and how many times less the squared error is with it than
    where nothing is clipped.
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
    """Scales as `plain_scales` has them, but with the least squared error, input channel k weighted
    by `importance[k]`, its mean square.
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
    """`weight` `[K, N]` as `[K / block, block, N]`, where there are blocks."""
    return weight if block is None else weight.reshape(-1, block, weight.shape[1])


def for_each_weight(scales: Floats, shape: tuple[int, ...]) -> Floats:
    """`scales` `[N]` or `[K / block, N]` as `[K, N]`: each weight's own."""
    if scales.ndim == 1:
        return np.broadcast_to(scales, shape)
    return np.repeat(scales, shape[0] // len(scales), axis=0)


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
