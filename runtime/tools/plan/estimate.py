"""Estimates an engine's latency on a device from the layers that its builder listed.

Each kernel takes the longer of two times: to move its bytes, and to multiply. Sources: S. Williams
et al., "Roofline", doi:10.1145/1498765.1498785; tiles and waves: NVIDIA, "Matrix Multiplication
Background User's Guide". The constants were set on the public figures in `benchmarks/figures.py`;
docs/tensorrt-plan.md has how far from them the estimates are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from . import layers as kinds
from .devices import Device
from .layers import EngineLayer, kernels, total

LOW, HIGH = 0.7, 1.5
"""A measured latency is most often between these times the estimate."""

_BANDWIDTH = 0.8
"""Share of the memory's bandwidth that kernels reach."""
_CACHE_SPEED = 3.0
"""Speed of the second-level cache relative to the memory's."""
_CACHE_SHARE = 0.5
"""Share of it that is there for what one kernel hands to the next."""
_TILES = ((128, 128, 0.66), (128, 64, 0.57), (64, 64, 0.45), (64, 32, 0.3))
"""Rows, columns and share of the peak of a kernel that multiplies in tiles of that size."""
_ATTENTION = 0.35
"""Share of the peak that fused attention reaches."""
_VECTOR = 0.25
"""The same of a product with few rows, which moves bytes more than it multiplies."""


@dataclass(frozen=True)
class LatencyEstimate:
    """A latency on a device.

    Attributes:
        milliseconds: Of one call.
        batch: Images of one call.
        moving, multiplying, launching: Shares of the time in kernels that are bound by memory, by
            arithmetic, and between kernels; they add up to 1.
    """

    milliseconds: float
    batch: int
    moving: float
    multiplying: float
    launching: float

    @property
    def images_per_second(self) -> float:
        return 1000 * self.batch / self.milliseconds

    @property
    def bound(self) -> str:
        """The part that takes most of the time."""
        parts = {
            "memory": self.moving, "arithmetic": self.multiplying, "launches": self.launching
        }  # fmt: skip
        return max(parts, key=lambda part: parts[part])


@dataclass(frozen=True)
class KernelTime:
    """Estimated microseconds of a kernel, to move its bytes and to multiply."""

    layer: EngineLayer
    moving: float
    multiplying: float

    @property
    def is_moving(self) -> bool:
        """True if the memory bounds it."""
        return self.moving > self.multiplying

    @property
    def microseconds(self) -> float:
        """The longer of the two; a launch comes to it."""
        return max(self.moving, self.multiplying)


def estimate(layers: Sequence[EngineLayer], batch: int, device: Device) -> LatencyEstimate | None:
    """The latency of an engine whose layers have known shapes.

    Returns:
        None if a size is not known, or the device has no units for a type.
    """
    times = kernel_times(layers, device)
    if times is None:
        return None
    moving = sum(time.microseconds for time in times if time.is_moving)
    multiplying = sum(time.microseconds for time in times if not time.is_moving)
    launching = len(times) * device.launch
    whole = moving + multiplying + launching
    return LatencyEstimate(
        whole / 1000, batch, moving / whole, multiplying / whole, launching / whole
    )


def kernel_times(layers: Sequence[EngineLayer], device: Device) -> list[KernelTime] | None:
    """The time of each kernel, without its launch; None where `estimate` has none."""
    running = list(kernels(layers))
    constants = total(t.bytes for t in {t for layer in running for t in layer.constants})
    if constants is None or not running or any(_shapeless(layer) for layer in running):
        return None
    weights_stay = constants < _CACHE_SHARE * device.cache * 1e6
    times = []
    for layer in running:
        moved = _moving_us(layer, device, weights_stay)
        multiplied = _multiplying_us(layer, device)
        if moved is None or multiplied is None:
            return None
        times.append(KernelTime(layer, moved, multiplied))
    return times


def _shapeless(layer: EngineLayer) -> bool:
    """Returns whether it multiplies and has no output of two axes at least."""
    return (layer.multiplies or layer.kind == kinds.ATTENTION) and (
        not layer.outputs or len(layer.outputs[0].shape) < 2
    )


def _moving_us(layer: EngineLayer, device: Device, weights_stay: bool) -> float | None:
    """Microseconds to move the bytes of a kernel.

    A tensor that it shares with its neighbours may lie in the second-level cache.
    """
    room = _CACHE_SHARE * device.cache * 1e6
    speed = device.bandwidth * 1e3 * _BANDWIDTH
    constants, time = set(layer.constants), 0.0
    for tensor in {*layer.inputs, *layer.outputs, *constants}:
        size = tensor.bytes
        if size is None:
            return None
        stays = weights_stay if tensor in constants else size < room
        time += size / (speed * _CACHE_SPEED if stays else speed)
    return time


def _multiplying_us(layer: EngineLayer, device: Device) -> float | None:
    """Microseconds of arithmetic; None if it is not known how much, or the device cannot do it."""
    if not layer.multiplies and layer.kind != kinds.ATTENTION:
        return 0.0
    macs, peak = layer.macs, device.peaks.get(layer.precision)
    if macs is None or peak is None:
        return None
    rate = peak * device.sustained * 1e6  # operations a microsecond
    if layer.kind == kinds.ATTENTION:
        heads, queries = layer.outputs[0].shape[0], layer.outputs[0].shape[-2]
        share = _ATTENTION if queries > 1 else _VECTOR * _ATTENTION
        return 2 * macs / (rate * share * _occupied(heads * math.ceil(queries / 64), device))
    rows, columns, count = _sizes(layer)
    return min(
        2 * macs / (rate * share * _filled(rows, columns, high, wide)
                    * _occupied(count * math.ceil(rows / high) * math.ceil(columns / wide), device))
        for high, wide, share in _TILES
    )  # fmt: skip


def _sizes(layer: EngineLayer) -> tuple[int, int, int]:
    """Rows, columns and number of the products of a layer."""
    shape = layer.outputs[0].shape
    if layer.kind == kinds.CONVOLUTION:
        return shape[0] * math.prod(shape[2:]), shape[1], 1
    operands = layer.operands
    assert operands is not None
    second = operands[1]
    if second in layer.constants or len(shape) < 3:
        return math.prod(shape[:-1]), shape[-1], 1
    return shape[-2], shape[-1], math.prod(shape[:-2])


def _filled(rows: int, columns: int, high: int, wide: int) -> float:
    """Share of the tiles' numbers that are wanted."""
    padded = math.ceil(rows / high) * high * math.ceil(columns / wide) * wide
    return rows * columns / padded


def _occupied(tiles: int, device: Device) -> float:
    """Share of the multiprocessors that have work, over all waves of tiles."""
    waves = math.ceil(tiles / device.multiprocessors)
    return tiles / (waves * device.multiprocessors)
