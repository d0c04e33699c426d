"""Finds the Linears of a graph, which are products with a constant matrix, and folds the factors
behind them into their weights: attention's 1 / sqrt(head size) and LayerScale, which saves three
elementwise operations per block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vit_edge.export.graph_edit import add_initializer, array, replace_input


@dataclass(frozen=True)
class Linear:
    """`MatMul(activation [..., K], weight [K, N])`, with the Add of its bias where there is one."""

    node: ir.Node
    activation: ir.Value
    weight: ir.Value
    bias: ir.Value | None

    @property
    def name(self) -> str:
        """The module's name, as `blocks.0.attn.qkv`."""
        return str(self.node.name).rpartition("/")[0]

    @property
    def output(self) -> ir.Value:
        """The result, bias included."""
        value = self.node.outputs[0]
        return next(iter(value.consumers())).outputs[0] if self.bias is not None else value


def find_linears(graph: ir.Graph) -> list[Linear]:
    """Every MatMul by a constant matrix, in graph order.

    The head, a Gemm on one token, is not among them.
    """
    return [linear for linear in map(as_linear, graph) if linear is not None]


def as_linear(node: ir.Node) -> Linear | None:
    """The Linear whose MatMul is `node`, or None."""
    if node.op_type != "MatMul":
        return None
    activation, weight = node.inputs
    if (
        activation is None
        or weight is None
        or not weight.is_initializer()
        or len(weight.shape or ()) != 2
    ):
        return None
    return Linear(node, activation, weight, _bias(node.outputs[0]))


def _bias(product: ir.Value) -> ir.Value | None:
    consumers = list(product.consumers())
    if len(consumers) != 1 or consumers[0].op_type != "Add":
        return None
    others = [v for v in consumers[0].inputs if v is not None and v is not product]
    return (
        others[0]
        if len(others) == 1 and others[0].is_initializer() and len(others[0].shape or ()) == 1
        else None
    )


def linear_of(value: ir.Value) -> Linear | None:
    """The Linear whose whole output is `value`, if only one node uses that; else None."""
    last = value.producer() if len(list(value.consumers())) == 1 else None
    if last is not None and last.op_type == "Add":
        producers = [v.producer() for v in last.inputs if v is not None and v.producer()]
        last = producers[0] if len(producers) == 1 else None
    linear = as_linear(last) if last is not None else None
    return linear if linear is not None and linear.output is value else None


ALL = slice(None)


def scale_output(
    graph: ir.Graph, linear: Linear, factor: NDArray[np.float32], columns: slice = ALL
) -> None:
    """Multiplies some columns of a Linear's weight and bias; `factor` is a number or one for each.

    The Linear gets its own constants, because the exporter lets blocks share equal ones.
    """
    _scale(graph, linear.node, linear.weight, factor, columns)
    if linear.bias is not None:
        _scale(graph, linear.output.producer(), linear.bias, factor, columns)


def _scale(
    graph: ir.Graph,
    node: ir.Node | None,
    value: ir.Value,
    factor: NDArray[np.float32],
    columns: slice,
) -> None:
    assert node is not None
    data = array(value).copy()
    data[..., columns] *= factor
    replace_input(node, value, add_initializer(graph, f"{node.name}/scaled", data))


_LAYOUT_OPS = ("Reshape", "Transpose")


class FoldAttentionScale(ir.passes.InPlacePass):
    """`Linear -> Split -> Reshape, Transpose -> Mul(scalar)`: folds the scalar into the
    Linear's columns of Q. Where Q has its own Linear there is no Split, and all columns are scaled.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return _fold_each(model, _fold_attention_scale)


def _fold_each(model: ir.Model, fold: Callable[[ir.Graph, ir.Node], bool]) -> ir.passes.PassResult:
    """Calls `fold` for every Mul; `fold` removes the Mul and returns True where it can fold it."""
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
    """Part number `part` of `parts` equal parts of the last axis of `value`."""

    value: ir.Value
    part: int
    parts: int


def _origin(value: ir.Value) -> _Origin | None:
    """Follows `value` back through layout changes and at most one equal Split, as long as nothing
    else reads the values on the way.
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
    """`Linear -> Mul(constant [N])`: folds the constant into the Linear's weight and bias."""

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
