"""NVFP4: 4-bit numbers in blocks of 16, an 8-bit scale for each block, and one for the tensor.

Along the axis that a product sums over, 16 numbers of E2M1 share a scale of E4M3, which is itself
in units of one float32 number. The block scales of activations are computed on the device, from the
largest magnitude of each block; those of weights are constants that are searched.

Source: NVIDIA TensorRT documentation, operator DynamicQuantize, and "Quantization Schemes".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from .grid import FP4_GRID, FP8_GRID, Floats, Grid, Scheme, in_blocks
from .linear_layers import LinearLayer, find_linear_layers

BLOCK = 16
_RANKS = (2, 3)
"""Numbers of dimensions of the tensors that TensorRT quantises in blocks."""
_RATIOS = np.geomspace(0.68, 1.6, 18, dtype=np.float32)
"""Tried for a weight's block scale, relative to the one that clips nothing: most blocks lose less
if their largest magnitude becomes 4 instead of 6, and some if it is clipped.
"""
_ROOM_OF_WEIGHTS = 1.75
"""Block scales up to this many times the largest that clips nothing fit into E4M3."""
ROOM_OF_ACTIVATIONS = 2.0
"""Headroom, because other images exceed the range of the calibration images. It costs nothing: E4M3
has the same number of steps in each of its 14 powers of two.
"""
_SMALLEST = 1e-30


@dataclass(frozen=True)
class Float4Scheme(Scheme):
    """NVFP4 for weights, and for activations too where `activations` is a grid. Layers fall back to
    FP8, which every GPU that has NVFP4 multiplies twice as fast as 16 bits.
    """

    weights: Grid = FP4_GRID
    activations: Grid | None = FP4_GRID
    block: int | None = BLOCK
    fallback: Scheme | None = Scheme(FP8_GRID, FP8_GRID)

    def __str__(self) -> str:
        return "nvfp4" if self.activations is not None else "nvfp4 weights"

    def block_for(self, channels: int) -> int | None:
        """Returns the size of all blocks, whatever the number of channels."""
        return self.block

    def plain_scales(self, weight: Floats) -> Floats:
        """Scales `[K / 16, N]` by each block's largest magnitude; the largest is E4M3's 448."""
        return plain_scales(weight, tensor_scale(np.abs(weight).max()))


def float4_layers(graph: ir.Graph) -> list[LinearLayer]:
    """The layers whose channels divide into whole blocks and whose tensors TensorRT supports."""
    layers = find_linear_layers(graph)
    return [s for s in layers if len(s.weights) % BLOCK == 0 and _rank(s.activation) in _RANKS]


def _rank(value: ir.Value) -> int:
    return 0 if value.shape is None else len(value.shape)


def tensor_scale(amax: float, room: float = 1.0) -> np.float32:
    """The float32 scale of a tensor: `room * amax` is the largest number that it can hold."""
    return np.float32(max(room * float(amax) / (FP4_GRID.largest * FP8_GRID.largest), _SMALLEST))


def fake_quantise(rows: Floats, scale: np.float32) -> Floats:
    """Quantises `rows` `[rows, K]` as the device does activations, and dequantises them again."""
    blocks = rows.reshape(-1, BLOCK)
    amax: Floats = np.abs(blocks).max(axis=1, keepdims=True)
    steps = FP8_GRID.round(amax / np.float32(FP4_GRID.largest) / scale) * scale
    with np.errstate(
        over="ignore"
    ):  # a block whose scale rounds to 0 becomes 0, whatever it is divided by
        numbers = FP4_GRID.round(blocks / np.maximum(steps, np.finfo(np.float32).tiny))
    dequantised: Floats = (numbers * steps).reshape(rows.shape)
    return dequantised


def plain_scales(weight: Floats, scale: np.float32) -> Floats:
    """Scales `[K / 16, N]` of `weight` `[K, N]` by the largest magnitude of each block."""
    amax = np.abs(in_blocks(weight, BLOCK)).max(axis=1)
    return _rounded(amax / np.float32(FP4_GRID.largest), scale)


def scale_of_weights(weights: Sequence[Floats]) -> np.float32:
    """One float32 scale for weights that read the same activation, so that they can be fused."""
    largest = max(float(np.abs(weight).max()) for weight in weights)
    return tensor_scale(largest, _ROOM_OF_WEIGHTS)


def search_scales(weight: Floats, importance: Floats, scale: np.float32) -> Floats:
    """Scales `[K / 16, N]` with the least squared error, input channel k weighted by
    `importance[k]`, its mean square.
    """
    blocks, weights = in_blocks(weight, BLOCK), in_blocks(importance[:, None], BLOCK)
    plain = np.abs(blocks).max(axis=1) / np.float32(FP4_GRID.largest)
    best = _rounded(plain, scale)
    least = np.full_like(best, np.inf)
    for ratio in _RATIOS:
        steps = _rounded(plain * ratio, scale)
        lost = FP4_GRID.round(blocks / steps[:, None]) * steps[:, None] - blocks
        error = (weights * lost**2).sum(axis=1)
        best = np.where(error < least, steps, best)
        least = np.minimum(error, least)
    return best


def _rounded(steps: Floats, scale: np.float32) -> Floats:
    """Block scales rounded to E4M3 in units of `scale`; those that would be 0 become its smallest
    number, so that all are positive.
    """
    numbers = np.maximum(FP8_GRID.round(steps / scale), np.float32(2.0**-9))
    rounded: Floats = numbers * scale
    return rounded
