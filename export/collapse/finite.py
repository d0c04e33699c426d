"""Finds the first tensor that is not finite."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from vit_edge.export.graph_edit import add_initializer, describe
from vit_edge.export.running import outputs
from vit_edge.runtime.tools.images import ImageSet

from .fault import FINITE, Fault
from .moments import Observed

_ONE = 1
"""Images at a time: every activation is summed up."""


def first_not_finite(lowered: ir.Model, observed: Observed, images: ImageSet) -> Fault | None:
    """The fault of a lowering with infinities or NaN at a watched place, named after the first
    tensor in graph order that has them; None where all is finite.
    """
    finite = [np.isfinite(sums).all() for sums in observed.sums]
    if all(finite) and np.isfinite(observed.logits).all():
        return None
    tensor = _locate(lowered, images) or "logits"
    module = tensor.rpartition("/")[0] or tensor
    what = "the first tensor that is not finite: it overflows its type, or divides by zero"
    return Fault(FINITE, module, tensor, what)


def _locate(lowered: ir.Model, images: ImageSet) -> str | None:
    model = lowered.clone()
    names = _watch_all(model.graph)
    for numbers in outputs(model, images, _ONE):
        for name, number in zip(names, numbers, strict=True):
            if not np.isfinite(number).all():
                return name.partition("@")[0]
    return None


def _watch_all(graph: ir.Graph) -> list[str]:
    """Makes the outputs one number for each floating-point tensor: NaN if it is not finite."""
    graph.outputs.clear()
    zero = add_initializer(graph, "watch/zero", np.zeros((), np.float32))
    names: list[str] = []
    for node in list(graph):
        for value in node.outputs:
            if value.dtype == ir.DataType.FLOAT:
                nothing = ir.node("Mul", [value, zero])
                total = ir.node("ReduceSum", nothing.outputs, {"keepdims": 0})
                graph.insert_after(node, (nothing, total))
                name = f"watch:{len(names)}"
                output = describe(total.outputs[0], name, ir.Shape([]), ir.DataType.FLOAT)
                graph.outputs.append(output)
                names.append(str(value.name))
    return names
