"""fp32: the optimised graph itself."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from vit_edge.calibration.collect import Calibration
from vit_edge.export.collapse.limits import LIMITS, Limits

from .base import Budget, Graphs


@dataclass(frozen=True)
class FP32:
    """See `export.precision.base.Precision`."""

    budget: Budget = Budget(
        max_logit_error=1e-3, max_drop=None, min_agreement=None, min_cosine=None
    )
    limits: Limits = LIMITS["fp32"]

    def observes(self, graph: ir.Graph) -> tuple[str, ...]:
        """See `export.precision.base.Precision`."""
        return ()

    def lower(self, model: ir.Model, calibration: Calibration) -> Graphs:
        return {"cpu": model, "gpu": model}
