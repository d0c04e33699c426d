"""Moves the 1 / sqrt(head size) of attention into the weights of Q: one elementwise pass less per
block.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .linears import Linear, linear_of, scale_output

_LAYOUT_OPS = ("Reshape", "Transpose")


class FoldAttentionScale(ir.passes.InPlacePass):
    """`Linear -> Split -> Reshape, Transpose -> Mul(scalar)`: the scalar goes into the Linear's
    columns of Q.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        folded = [_fold(model.graph, node) for node in list(model.graph) if node.op_type == "Mul"]
        return ir.passes.PassResult(model, modified=any(folded))


def _fold(graph: ir.Graph, node: ir.Node) -> bool:
    source, scale = node.inputs
    if source is None or scale is None:
        return False
    constant = ir.convenience.get_const_tensor(scale)
    split = _split_before(source)
    if constant is None or constant.size != 1 or split is None:
        return False
    linear = _linear_before(split.node)
    if linear is None:
        return False
    width = (linear.weight.shape or [0])[1] // len(split.node.outputs)
    columns = slice(split.index * width, (split.index + 1) * width)
    factor = np.array(constant.numpy().item(), dtype=np.float32)
    scale_output(graph, linear, factor, columns)
    node.outputs[0].replace_all_uses_with(source)
    graph.remove(node, safe=True)
    return True


class _SplitOutput:
    def __init__(self, node: ir.Node, index: int) -> None:
        self.node, self.index = node, index


def _split_before(value: ir.Value) -> _SplitOutput | None:
    """The equal Split whose output reaches `value` through layout changes alone, used by nothing
    else on the way.
    """
    while (node := value.producer()) is not None and len(list(value.consumers())) == 1:
        if node.op_type == "Split" and "num_outputs" in node.attributes:
            return _SplitOutput(node, node.outputs.index(value))
        if node.op_type not in _LAYOUT_OPS or node.inputs[0] is None:
            return None
        value = node.inputs[0]
    return None


def _linear_before(split: ir.Node) -> Linear | None:
    """The Linear whose whole output is what `split` splits, and nothing else uses."""
    value = split.inputs[0]
    return None if value is None else linear_of(value)
