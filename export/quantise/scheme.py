"""How Linears are quantised: on which grid their weights, and on which their inputs."""

from __future__ import annotations

from dataclasses import dataclass

from .grid import Floats, Grid, plain_scales

_SMALLEST_BLOCK = 16


@dataclass(frozen=True)
class Scheme:
    """The grids of a precision.

    Attributes:
        weights: The grid of the weights.
        activations: The grid of the Linears' inputs; None: they stay as they are.
        block: How many input channels share a scale with each other; None: all. It is halved where
            it does not divide their number.
    """

    weights: Grid
    activations: Grid | None
    block: int | None = None

    def block_for(self, channels: int) -> int | None:
        """The block of a weight with that many input channels."""
        block = self.block
        while block is not None and channels % block:
            block = block // 2 if block > _SMALLEST_BLOCK else channels
        return block

    def plain_scales(self, weight: Floats) -> Floats:
        """Scales of `weight` `[K, N]` that clip nothing."""
        return plain_scales(weight, self.weights, self.block_for(len(weight)))
