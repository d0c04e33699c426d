"""bf16: the range of fp32 with 8 bits of mantissa, for GPUs, and for CPUs that compute in it."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from vit_edge.calibration.collect import Calibration
from vit_edge.export.collapse.limits import LIMITS, Limits
from vit_edge.export.forms import write_in_default

from .base import SIXTEEN_BIT, Budget, Graphs
from .cast import cast_to


@dataclass(frozen=True)
class BF16:
    """See `export.precision.base.Precision`.

    Nothing overflows, so that no tensor needs an island; LayerNormalization stays in fp32, where
    its mean and variance keep their bits. Of the engines on CPUs OpenVINO runs it, natively where
    the CPU has bf16; ONNX Runtime has no kernels, so that the graph is measured as a simulation.
    """

    budget: Budget = SIXTEEN_BIT
    limits: Limits = LIMITS["bf16"]

    def observes(self, graph: ir.Graph) -> tuple[str, ...]:
        """See `export.precision.base.Precision`."""
        return ()

    def lower(self, model: ir.Model, calibration: Calibration) -> Graphs:
        lowered = model.clone()
        cast_to(lowered.graph, ir.DataType.BFLOAT16, _stays_fp32)
        write_in_default(lowered)
        return {"cpu": lowered, "gpu": lowered}


def _stays_fp32(node: ir.Node) -> bool:
    return node.op_type == "LayerNormalization"
