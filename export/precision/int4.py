"""INT4 weights for the Linears: a quarter of fp16's size, computed in 16 bits."""

from __future__ import annotations

from dataclasses import dataclass

from vit_edge.export.collapse.limits import LIMITS, Limits
from vit_edge.export.quantise.grid import INT4_GRID
from vit_edge.export.quantise.scheme import Scheme

from .base import EIGHT_BIT, Budget
from .quantised import QuantisedPrecision


@dataclass(frozen=True)
class INT4(QuantisedPrecision):
    """Weights in blocks of 64 input channels with a scale each; activations stay as they are."""

    scheme: Scheme = Scheme(INT4_GRID, None, block=64)
    budget: Budget = EIGHT_BIT
    limits: Limits = LIMITS["int4"]
    kinds: tuple[str, ...] = ("gpu",)
