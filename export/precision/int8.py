"""INT8 for the Linears: weights per output channel, activations per tensor, both symmetric."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from calibration.collect import Calibration
from calibration.observers import SEARCH
from export.quantise.linears import quantise, quantise_by_table

from .base import Budget, Graphs
from .fp16 import FP16, to_fp16


@dataclass(frozen=True)
class INT8:
    """See `export.precision.base.Precision`.

    Only the inputs and weights of the blocks' Linears carry Q/DQ: never the residual stream, whose
    outliers would destroy the model. Patch embedding and head, a hundredth of the work, stay as
    they are. Around the Linears is fp32 for CPUs and fp16 for GPUs; the integers are the same in
    both.
    """

    around: FP16 = FP16()
    budget: Budget = Budget(
        max_logit_error=None, max_drop=0.5, min_agreement=0.985, min_cosine=0.99, users_drop=True
    )

    def lower(self, model: ir.Model, calibration: Calibration) -> Graphs:
        quantised, table = model.clone(), calibration.table
        if table.provenance.method == SEARCH:
            quantise(quantised.graph, calibration.samples)
        else:
            quantise_by_table(quantised.graph, table.amax)
        return {"cpu": quantised, "gpu": to_fp16(quantised.clone(), table, self.around.headroom)}
