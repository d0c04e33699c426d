"""Moves LayerScale into the Linear before it: two elementwise passes less per block."""

from __future__ import annotations

import onnx_ir as ir

from vit_edge.export.graph_edit import array

from .linears import linear_of, scale_output


class FoldLayerScale(ir.passes.InPlacePass):
    """`Linear -> Mul(constant [N])`: the constant goes into the Linear's columns and bias."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        folded = [_fold(model.graph, node) for node in list(model.graph) if node.op_type == "Mul"]
        return ir.passes.PassResult(model, modified=any(folded))


def _fold(graph: ir.Graph, node: ir.Node) -> bool:
    source, gain = node.inputs
    if source is None or gain is None or not gain.is_initializer():
        return False
    linear = linear_of(source)
    if linear is None or linear.weight.shape is None or gain.shape is None:
        return False
    if tuple(gain.shape) != (linear.weight.shape[1],):
        return False
    scale_output(graph, linear, array(gain))
    node.outputs[0].replace_all_uses_with(source)
    graph.remove(node, safe=True)
    return True
