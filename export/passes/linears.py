"""Finds the Linears of a graph: products with a constant matrix, and what surrounds them."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir


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
