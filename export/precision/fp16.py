"""fp16 for every operator whose tensors fit into it; fp32 islands for the others."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from vit_edge.calibration.collect import Calibration
from vit_edge.calibration.observers import CalibrationTable
from vit_edge.export.collapse.limits import FP16_STEP, Limits, SegmentLimits
from vit_edge.export.forms import write_in_default
from vit_edge.export.quantise.float4_qdq import dequantises_float4

from .base import SIXTEEN_BIT, Budget, Graphs, Precision, Ranks
from .cast import cast_to

FP16_MAX = 65504.0


@dataclass(frozen=True)
class FP16(Precision):
    """See `export.precision.base.Precision`.

    LayerNormalization always runs in fp32: it squares its input, which exceeds 1,000 in large ViTs.
    So does every operator with an input or output beyond `FP16_MAX / headroom`: images in use may
    exceed the peaks of the calibration images.
    """

    headroom: float = 8.0
    budget: Budget = SIXTEEN_BIT
    limits: Limits = Limits(
        exact=2e-3,
        linear=SegmentLimits(2e-3, 8e-3, 2e-4, 4e-3, 8e-4),
        branch=SegmentLimits(5e-3, 2e-2, 1e-3, 6e-3, 2e-3),
        one_token=1.0,
        outputs=2e-2,
        stream=FP16_STEP,
    )
    ranks: Ranks = Ranks(cpu=3, gpu=0)

    def lower(self, model: ir.Model, calibration: Calibration) -> Graphs:
        lowered = to_fp16(model.clone(), calibration.table, self.headroom)
        return dict.fromkeys(self.ranks.kinds, lowered)


def to_fp16(model: ir.Model, table: CalibrationTable, headroom: float) -> ir.Model:
    """Casts `model` in place, except for fp32 islands, brings it to the default form for GPUs, and
    returns it.
    """
    limit = FP16_MAX / headroom

    def stays_fp32(node: ir.Node) -> bool:
        if node.op_type == "LayerNormalization" or dequantises_float4(node):
            return True
        return any(
            _peak(value, table) > limit
            for value in (*node.inputs, *node.outputs)
            if value is not None
        )

    cast_to(model.graph, ir.DataType.FLOAT16, stays_fp32)
    write_in_default(model)
    return model


def _peak(value: ir.Value, table: CalibrationTable) -> float:
    """The largest magnitude of a tensor: measured for activations, computed for weights; else 0."""
    if value.name in table.peak:
        return table.peak[value.name]
    if (
        value.is_initializer()
        and value.dtype == ir.DataType.FLOAT
        and value.const_value is not None
    ):
        return float(abs(value.const_value.numpy()).max())
    return 0.0
