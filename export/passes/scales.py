"""Moves the 1 / sqrt(head size) of attention into the weights of Q, and LayerScale into the Linear
before it: three elementwise passes less per block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from vit_edge.export.graph_edit import array

from .linears import linear_of, scale_output

_LAYOUT_OPS = ("Reshape", "Transpose")


class FoldAttentionScale(ir.passes.InPlacePass):
    """`Linear -> Split -> Reshape, Transpose -> Mul(scalar)`: the scalar goes into the Linear's
    columns of Q. Where Q has a Linear of its own there is no Split, and all of its columns take it.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return _fold_each(model, _fold_attention_scale)


def _fold_each(model: ir.Model, fold: Callable[[ir.Graph, ir.Node], bool]) -> ir.passes.PassResult:
    """Calls `fold` for every Mul; it takes those out of the graph that it can, and returns true."""
    folded = [fold(model.graph, node) for node in list(model.graph) if node.op_type == "Mul"]
    return ir.passes.PassResult(model, modified=any(folded))


def _fold_attention_scale(graph: ir.Graph, node: ir.Node) -> bool:
    source, scale = node.inputs
    if source is None or scale is None:
        return False
    constant = ir.convenience.get_const_tensor(scale)
    origin = _origin(source) if constant is not None and constant.size == 1 else None
    linear = linear_of(origin.value) if origin is not None else None
    if constant is None or origin is None or linear is None:
        return False
    width = (linear.weight.shape or [0])[1] // origin.parts
    columns = slice(origin.part * width, (origin.part + 1) * width)
    factor = np.array(constant.numpy().item(), dtype=np.float32)
    scale_output(graph, linear, factor, columns)
    node.outputs[0].replace_all_uses_with(source)
    graph.remove(node, safe=True)
    return True


@dataclass(frozen=True)
class _Origin:
    """Part `part` of `parts` equal ones of the last axis of `value`."""

    value: ir.Value
    part: int
    parts: int


def _origin(value: ir.Value) -> _Origin | None:
    """Follows `value` back through layout changes and at most one equal Split, used by nothing else
    on the way.
    """
    while (node := value.producer()) is not None and len(list(value.consumers())) == 1:
        source = node.inputs[0]
        if source is None:
            return None
        if node.op_type == "Split" and "num_outputs" in node.attributes:
            return _Origin(source, node.outputs.index(value), len(node.outputs))
        if node.op_type not in _LAYOUT_OPS:
            return _Origin(value, 0, 1)
        value = source
    return None


class FoldLayerScale(ir.passes.InPlacePass):
    """`Linear -> Mul(constant [N])`: the constant goes into the Linear's columns and bias."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return _fold_each(model, _fold_layer_scale)


def _fold_layer_scale(graph: ir.Graph, node: ir.Node) -> bool:
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
