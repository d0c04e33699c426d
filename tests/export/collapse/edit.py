"""Finds and changes parts of a graph, for the faults."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vit_edge.export.graph_edit import add_initializer, array

Change = Callable[[NDArray[np.generic]], NDArray[np.generic]]


def node_of(model: ir.Model, name: str) -> ir.Node:
    return next(node for node in model.graph if node.name == name)


def change_input(model: ir.Model, node: ir.Node, index: int, change: Change) -> None:
    """Gives `node` a constant of its own, of the same type."""
    value = node.inputs[index]
    assert value is not None
    old = array(value)
    new = np.asarray(change(old.copy())).astype(old.dtype)
    replacement = add_initializer(model.graph, f"{node.name}/{index}/broken", new)
    node.replace_input_with(index, replacement)
    if not value.uses():
        del model.graph.initializers[str(value.name)]


def change_weight(model: ir.Model, linear: str, change: Change) -> None:
    change_input(model, node_of(model, f"{linear}/MatMul"), 1, change)


def change_bias(model: ir.Model, linear: str, change: Change) -> None:
    add = node_of(model, f"{linear}/Add")
    change_input(model, add, constant_side(add), change)


def constant_side(node: ir.Node) -> int:
    return next(i for i, v in enumerate(node.inputs) if v is not None and v.is_initializer())


def bypass(model: ir.Model, node: ir.Node, source: ir.Value | None = None) -> None:
    """Lets the users of `node` read its first input, or `source`; what is unused then goes."""
    node.outputs[0].replace_all_uses_with(source or node.inputs[0], replace_graph_outputs=True)
    ir.passes.common.RemoveUnusedNodesPass()(model)


def replace_operator(model: ir.Model, name: str, op_type: str) -> None:
    """The same inputs and output, another operator."""
    node = node_of(model, name)
    node.op_type = op_type
    node.attributes.clear()


def insert_before(
    model: ir.Model, node: ir.Node, op_type: str, inputs: Sequence[ir.Value | None], name: str
) -> ir.Value:
    """A new fp32 node, by the shape of its first input."""
    new = ir.node(op_type, inputs, name=name)
    model.graph.insert_before(node, new)
    value = new.outputs[0]
    value.name, value.type = name, ir.TensorType(ir.DataType.FLOAT)
    value.shape = inputs[0].shape if inputs[0] is not None else None
    return value


def weight_dequantiser(model: ir.Model, linear: str) -> ir.Node:
    """What makes a Linear's weight of integers."""
    value = node_of(model, f"{linear}/MatMul").inputs[1]
    node = value.producer() if value is not None else None
    while node is not None and node.op_type != "DequantizeLinear":
        value = node.inputs[0]
        node = value.producer() if value is not None else None
    assert node is not None
    return node


def stream_side(model: ir.Model, add: str) -> ir.Value:
    """What the residual Add of that name adds its branch to."""
    sides = [v for v in node_of(model, add).inputs if v is not None]
    return next(v for v in sides if not str(v.name).endswith((".proj/Add", ".fc2/Add")))
