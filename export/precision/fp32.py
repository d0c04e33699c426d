"""fp32: the optimised graph itself."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from vit_edge.calibration.collect import Calibration
from vit_edge.export.collapse.limits import Limits, SegmentLimits

from .base import Budget, Graphs, Precision, Ranks


@dataclass(frozen=True)
class FP32(Precision):
    """See `export.precision.base.Precision`."""

    budget: Budget = Budget(
        max_logit_error=1e-3, max_drop=None, min_agreement=None, min_cosine=None
    )
    limits: Limits = Limits(
        exact=1e-4,
        linear=SegmentLimits(1e-4, 1e-3, 1e-4, 1e-3, 1e-4),
        branch=SegmentLimits(1e-4, 1e-3, 1e-4, 1e-3, 1e-4),
        one_token=1.0,
        outputs=1e-3,
        stream=0.0,
    )
    ranks: Ranks = Ranks(cpu=2, gpu=4)

    def lower(self, model: ir.Model, calibration: Calibration) -> Graphs:
        return dict.fromkeys(self.ranks.kinds, model)
