"""INT8 for the Linears: weights per output channel, activations per tensor, both symmetric."""

from __future__ import annotations

from dataclasses import dataclass

from vit_edge.export.collapse.limits import LIMITS, Limits
from vit_edge.export.quantise.attention import AttentionScheme
from vit_edge.export.quantise.grid import INT8_GRID
from vit_edge.export.quantise.scheme import Scheme

from .base import EIGHT_BIT, SIXTEEN_BIT, Budget
from .quantised import QuantisedPrecision


@dataclass(frozen=True)
class INT8(QuantisedPrecision):
    """W8A8. Where it misses its budget, the most sensitive Linears are left in 16 or 32 bits."""

    scheme: Scheme = Scheme(INT8_GRID, INT8_GRID)
    budget: Budget = EIGHT_BIT
    limits: Limits = LIMITS["int8"]


@dataclass(frozen=True)
class Mixed(INT8):
    """INT8 in as many Linears as a 16-bit precision's budget allows."""

    budget: Budget = SIXTEEN_BIT


@dataclass(frozen=True)
class INT8Attention(INT8):
    """INT8 in attention's two products too, where TensorRT fuses them: for GPUs alone, because CPU
    engines have no such kernel.
    """

    kinds: tuple[str, ...] = ("gpu",)
    attention: AttentionScheme | None = AttentionScheme(INT8_GRID)
