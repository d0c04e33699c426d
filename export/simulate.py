"""16-bit numerics without a GPU.

ONNX Runtime on a CPU computes fp16 nodes in fp32, with hidden casts: overflow stays invisible
there. Here each 16-bit tensor becomes an fp32 one that passes through `Cast(16) ->
Cast(32)`, so that it rounds and overflows as it does on a GPU, whose matrix products accumulate in
fp32. Operands of a product of 8 or 4 bits are not rounded: its kernel multiplies these numbers, and
those that they stand for never exist.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from vit_edge.export.graph_edit import array, describe, set_dtype

SIXTEEN_BIT = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_FEW_BITS = (
    ir.DataType.INT8,
    ir.DataType.UINT8,
    ir.DataType.FLOAT8E4M3FN,
    ir.DataType.FLOAT4E2M1,
)
_PRODUCTS = ("MatMul", "Conv")


def simulate(model: ir.Model) -> ir.Model:
    """A copy of `model` that ONNX Runtime's CPU kernels compute with 16-bit rounding after every
    node.
    """
    simulated = model.clone()
    graph = simulated.graph
    exact = {value for node in graph for value in _exact_operands(node)}
    _widen_constants(graph)
    for node in list(graph):
        for value in node.outputs:
            if value in exact:
                _widen(node, value)
            elif value.dtype in SIXTEEN_BIT:
                _round(graph, node, value, value.dtype)
    return simulated


def widen(model: ir.Model) -> ir.Model:
    """A copy of `model` with 32 bits where it has 16: what its nodes compute, without rounding."""
    wide = model.clone()
    _widen_constants(wide.graph)
    for node in wide.graph:
        for value in node.outputs:
            if value.dtype in SIXTEEN_BIT:
                _widen(node, value)
    return wide


def _widen(node: ir.Node, value: ir.Value) -> None:
    """Makes an output of `node` fp32."""
    set_dtype(value, ir.DataType.FLOAT)
    if node.op_type == "Cast":
        node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT)


def _widen_constants(graph: ir.Graph) -> None:
    for value in list(graph.initializers.values()):
        if value.dtype in SIXTEEN_BIT and value.const_value is not None:
            value.const_value = ir.tensor(array(value).astype(np.float32), name=value.name)
            set_dtype(value, ir.DataType.FLOAT)


def sixteen_bit_types(model: ir.Model) -> set[ir.DataType]:
    """The 16-bit types that `model` computes in."""
    types = {value.dtype for node in model.graph for value in node.outputs}
    return {dtype for dtype in SIXTEEN_BIT if dtype in types}


def _exact_operands(node: ir.Node) -> tuple[ir.Value, ...]:
    """Both operands of a product of numbers of few bits that nothing else reads."""
    operands = tuple(value for value in node.inputs[:2] if value is not None)
    if node.op_type not in _PRODUCTS or not all(map(_has_few_bits, operands)):
        return ()
    return operands


def _has_few_bits(value: ir.Value) -> bool:
    """True for dequantised numbers, cast or not, that products alone read."""
    node = value.producer()
    if node is not None and node.op_type == "Cast" and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if node is None or node.op_type != "DequantizeLinear" or node.inputs[0] is None:
        return False
    users = {user.op_type for user in value.consumers()}
    return node.inputs[0].dtype in _FEW_BITS and users <= {*_PRODUCTS}


def _round(graph: ir.Graph, node: ir.Node, value: ir.Value, dtype: ir.DataType) -> None:
    """Makes `value` fp32, and its users read it rounded to `dtype`."""
    _widen(node, value)
    down = ir.node("Cast", [value], {"to": dtype}, name=f"{value.name}@rounded")
    up = ir.node("Cast", down.outputs, {"to": ir.DataType.FLOAT}, name=f"{value.name}@widened")
    for cast, kind in ((down, dtype), (up, ir.DataType.FLOAT)):
        describe(cast.outputs[0], cast.name, value.shape, kind)
    value.replace_all_uses_with(up.outputs[0])
    down.replace_input_with(0, value)
    graph.insert_after(node, (down, up))
