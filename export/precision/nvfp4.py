"""NVFP4 for the Linears, for GPUs of compute capability 10.0 and later."""

from __future__ import annotations

from dataclasses import dataclass

from vit_edge.export.collapse.limits import FP16_STEP, Limits, SegmentLimits
from vit_edge.export.quantise.float4 import Float4Scheme

from .base import EIGHT_BIT, FOUR_BIT, Budget, Ranks
from .quantised import QuantisedPrecision


@dataclass(frozen=True)
class NVFP4(QuantisedPrecision):
    """4-bit weights and activations in blocks of 16 input channels, each with an 8-bit scale. No
    CPU engine has kernels for it: it is measured as a simulation.
    """

    scheme: Float4Scheme = Float4Scheme()
    budget: Budget = FOUR_BIT
    limits: Limits = Limits(
        exact=2e-3,
        linear=SegmentLimits(2.5e-1, 1.2, 4e-2, 7e-1, 1.5e-1),
        branch=SegmentLimits(4e-1, 2.0, 1.2e-1, 9e-1, 2.5e-1),
        one_token=2.0,
        outputs=8e-1,
        stream=FP16_STEP,
    )
    ranks: Ranks = Ranks(gpu=4)
    least_capability: str = "10.0"


@dataclass(frozen=True)
class NVFP4Weights(NVFP4):
    """NVFP4 for the weights only; activations and products stay in 16 bits."""

    scheme: Float4Scheme = Float4Scheme(activations=None, fallback=None)
    budget: Budget = EIGHT_BIT
    ranks: Ranks = Ranks(gpu=5)
