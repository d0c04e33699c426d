"""bf16: the range of fp32 with 8 bits of mantissa, for GPUs, and for CPUs that compute in it."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from vit_edge.calibration.collect import Calibration
from vit_edge.export.collapse.limits import BF16_STEP, Limits, SegmentLimits
from vit_edge.export.forms import write_in_default

from .base import SIXTEEN_BIT, Budget, Graphs, Precision, Ranks
from .cast import cast_to


@dataclass(frozen=True)
class BF16(Precision):
    """See `export.precision.base.Precision`.

    Nothing overflows, so no tensor has to stay in fp32; LayerNormalization does, where its mean
    and variance keep their precision. Among the CPU engines OpenVINO runs it, natively if the CPU
    has bf16; ONNX Runtime has no kernels, so the graph is measured as a simulation.
    """

    budget: Budget = SIXTEEN_BIT
    limits: Limits = Limits(
        exact=1e-2,
        linear=SegmentLimits(1e-2, 6e-2, 2e-3, 3e-2, 6e-3),
        branch=SegmentLimits(3e-2, 1.5e-1, 6e-3, 4e-2, 1.2e-2),
        one_token=1.0,
        outputs=8e-2,
        stream=BF16_STEP,
    )
    ranks: Ranks = Ranks(cpu=1, gpu=1)

    def lower(self, model: ir.Model, calibration: Calibration) -> Graphs:
        lowered = model.clone()
        cast_to(lowered.graph, ir.DataType.BFLOAT16, _stays_fp32)
        write_in_default(lowered)
        return dict.fromkeys(self.ranks.kinds, lowered)


def _stays_fp32(node: ir.Node) -> bool:
    return node.op_type == "LayerNormalization"
