"""FP8 (E4M3) for the Linears, for GPUs of compute capability 8.9 and later."""

from __future__ import annotations

from dataclasses import dataclass

from vit_edge.export.collapse.limits import FP16_STEP, Limits, SegmentLimits
from vit_edge.export.quantise.grid import FP8_GRID, Scheme

from .base import EIGHT_BIT, Budget, Ranks
from .quantised import QuantisedPrecision


@dataclass(frozen=True)
class FP8(QuantisedPrecision):
    """Weights per output channel, activations per tensor. No CPU engine has kernels for it: it is
    measured as a simulation.
    """

    scheme: Scheme = Scheme(FP8_GRID, FP8_GRID)
    budget: Budget = EIGHT_BIT
    limits: Limits = Limits(
        exact=2e-3,
        linear=SegmentLimits(1.2e-1, 4e-1, 2e-2, 2.5e-1, 4e-2),
        branch=SegmentLimits(1.6e-1, 6.5e-1, 6e-2, 3.5e-1, 9e-2),
        one_token=2.0,
        outputs=6e-1,
        stream=FP16_STEP,
    )
    ranks: Ranks = Ranks(gpu=3)
    least_capability: str = "8.9"


@dataclass(frozen=True)
class FP8Attention(FP8):
    """FP8 in attention's two products too, where TensorRT fuses them."""

    scheme: Scheme = Scheme(FP8_GRID, FP8_GRID, attention=FP8_GRID)
    ranks: Ranks = Ranks(gpu=5)
