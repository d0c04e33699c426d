"""INT8 for the Linears: weights per output channel, activations per tensor, both symmetric."""

from __future__ import annotations

from dataclasses import dataclass

from vit_edge.export.collapse.limits import FP16_STEP, Limits, SegmentLimits
from vit_edge.export.quantise.grid import INT8_GRID, Scheme

from .base import EIGHT_BIT, SIXTEEN_BIT, Budget, Ranks
from .quantised import QuantisedPrecision


@dataclass(frozen=True)
class INT8(QuantisedPrecision):
    """W8A8. Where it misses its budget, the most sensitive Linears are left in 16 or 32 bits."""

    scheme: Scheme = Scheme(INT8_GRID, INT8_GRID)
    budget: Budget = EIGHT_BIT
    limits: Limits = Limits(
        exact=2e-3,
        linear=SegmentLimits(6e-2, 2.5e-1, 2e-2, 1.2e-1, 2e-2),
        branch=SegmentLimits(1.5e-1, 5e-1, 6e-2, 3.5e-1, 6e-2),
        one_token=2.5,
        outputs=2.5e-1,
        stream=FP16_STEP,
    )
    ranks: Ranks = Ranks(cpu=0, gpu=2)


@dataclass(frozen=True)
class Mixed(INT8):
    """INT8 in as many Linears as a 16-bit precision's budget allows."""

    budget: Budget = SIXTEEN_BIT
    ranks: Ranks = Ranks(cpu=3, gpu=5)


@dataclass(frozen=True)
class INT8Attention(INT8):
    """INT8 in attention's two products too, where TensorRT fuses them: for GPUs alone, because CPU
    engines have no such kernel.
    """

    scheme: Scheme = Scheme(INT8_GRID, INT8_GRID, attention=INT8_GRID)
    ranks: Ranks = Ranks(gpu=5)
