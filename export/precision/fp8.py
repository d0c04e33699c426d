"""FP8 (E4M3) for the Linears, for GPUs of compute capability 8.9 and later."""

from __future__ import annotations

from dataclasses import dataclass

from vit_edge.export.collapse.limits import LIMITS, Limits
from vit_edge.export.quantise.attention import AttentionScheme
from vit_edge.export.quantise.grid import FP8_GRID
from vit_edge.export.quantise.scheme import Scheme

from .base import EIGHT_BIT, Budget
from .quantised import QuantisedPrecision


@dataclass(frozen=True)
class FP8(QuantisedPrecision):
    """Weights per output channel, activations per tensor. No CPU engine has kernels for it: it is
    measured as a simulation.
    """

    scheme: Scheme = Scheme(FP8_GRID, FP8_GRID)
    budget: Budget = EIGHT_BIT
    limits: Limits = LIMITS["fp8"]
    kinds: tuple[str, ...] = ("gpu",)


@dataclass(frozen=True)
class FP8Attention(FP8):
    """FP8 in attention's two products too, where TensorRT fuses them."""

    attention: AttentionScheme | None = AttentionScheme(FP8_GRID)
