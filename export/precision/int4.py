"""INT4 weights for the Linears: a quarter of fp16's size, computed in 16 bits."""

from __future__ import annotations

from dataclasses import dataclass

from vit_edge.export.collapse.limits import FP16_STEP, Limits, SegmentLimits
from vit_edge.export.quantise.grid import INT4_GRID, Scheme

from .base import EIGHT_BIT, Budget, Ranks
from .quantised import QuantisedPrecision


@dataclass(frozen=True)
class INT4(QuantisedPrecision):
    """Weights in blocks of 64 input channels with a scale each; activations are not quantised."""

    scheme: Scheme = Scheme(INT4_GRID, None, block=64)
    budget: Budget = EIGHT_BIT
    limits: Limits = Limits(
        exact=2e-3,
        linear=SegmentLimits(2.5e-1, 1.2, 4e-2, 7e-1, 1.5e-1),
        branch=SegmentLimits(4e-1, 2.0, 1.2e-1, 9e-1, 2.5e-1),
        one_token=2.0,
        outputs=8e-1,
        stream=FP16_STEP,
    )
    ranks: Ranks = Ranks(gpu=5)
