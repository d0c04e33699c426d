"""Merged precisions: the graphs of another precision, with similar tokens merged."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from vit_edge.calibration.collect import Calibration

from .base import EIGHT_BIT, Budget, Graphs, Precision, Ranks


@dataclass(frozen=True)
class MergedPrecision(Precision):
    """See `export.precision.base.Precision`.

    Merging and rounding share one budget, against PyTorch. The number of tokens that each block
    merges is searched or given by the user (`export.merging`); `lower` merges none.

    Attributes:
        base: The name of the precision whose graphs are merged.
        of: That precision.
    """

    base: str = field(kw_only=True)
    of: Precision = field(kw_only=True)

    def observes(self, graph: ir.Graph) -> tuple[str, ...]:
        """See `export.precision.base.Precision`."""
        return self.of.observes(graph)

    def lower(self, model: ir.Model, calibration: Calibration) -> Graphs:
        """Returns the graphs of `of`, with nothing merged."""
        return self.of.lower(model, calibration)


def merged_from(
    name: str, of: Precision, ranks: Ranks, budget: Budget = EIGHT_BIT
) -> MergedPrecision:
    """The merged form of the precision `name`, tried in the order of `ranks`."""
    return MergedPrecision(
        budget, of.limits, ranks, least_capability=of.least_capability, base=name, of=of
    )
