"""Rewrites a graph from fp32 to a 16-bit type, node by node, with casts where the type changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir

from vit_edge.export.graph_edit import add_initializer, array, describe, set_dtype
from vit_edge.export.quantise.float4_qdq import QUANTISER

_OPSET = 23
"""The latest opset of the lowerings: later opsets accept all input types of earlier ones."""


def cast_to(graph: ir.Graph, dtype: ir.DataType, stays_fp32: Callable[[ir.Node], bool]) -> None:
    """Gives every floating-point node the 16-bit `dtype`, except those that stay fp32; graph
    outputs stay fp32.

    All decisions are made before the first change, on the fp32 graph. Weights are converted, not
    cast at run time.
    """
    types = {
        node: ir.DataType.FLOAT if stays_fp32(node) else dtype for node in graph if _is_float(node)
    }
    converted: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
    for node, target in types.items():
        for index, value in enumerate(node.inputs):
            if (
                value is None
                or value.dtype not in (ir.DataType.FLOAT, dtype)
                or value.dtype == target
                or not _takes(node, index, target)
            ):
                continue
            if (value, target) not in converted:
                converted[value, target] = _convert(graph, value, target, before=node)
            node.replace_input_with(index, converted[value, target])
        _set_output_types(node, target)
    for index, output in enumerate(graph.outputs):
        if output.dtype == dtype:
            graph.outputs[index] = _cast_output(graph, output)
    for value in list(graph.initializers.values()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[str(value.name)]


def _is_float(node: ir.Node) -> bool:
    return any(
        v is not None and v.dtype == ir.DataType.FLOAT for v in (*node.inputs, *node.outputs)
    )


def _takes(node: ir.Node, index: int, dtype: ir.DataType) -> bool:
    """False for an input that its operator requires in fp32 whatever type it computes in, as the
    scales of a Resize. Source: the operators' schemas.
    """
    if node.domain not in ("", "ai.onnx"):
        return node.op_type != QUANTISER or index == 0  # its scale is fp32
    formal = onnx.defs.get_schema(node.op_type, _OPSET, "").inputs
    return f"tensor({dtype.name.lower()})" in formal[min(index, len(formal) - 1)].types


def _convert(graph: ir.Graph, value: ir.Value, target: ir.DataType, before: ir.Node) -> ir.Value:
    name = f"{value.name}@{target.name.lower()}"
    if value.is_initializer():
        with np.errstate(over="ignore"):  # the accuracy check finds an overflow
            return add_initializer(graph, name, array(value).astype(target.numpy()))
    cast = ir.node("Cast", [value], {"to": target}, name=name)
    producer = value.producer()
    if producer is None:
        graph.insert_before(before, cast)
    else:
        graph.insert_after(producer, cast)
    return describe(cast.outputs[0], name, value.shape, target)


def _cast_output(graph: ir.Graph, output: ir.Value) -> ir.Value:
    """Adds a cast to fp32 behind `output`, and gives its result the output's name."""
    name = output.name
    low = output.dtype
    assert name is not None
    assert low is not None
    output.name = f"{name}@{low.name.lower()}"
    cast = ir.node("Cast", [output], {"to": ir.DataType.FLOAT}, name=f"{name}/Cast")
    graph.append(cast)
    return describe(cast.outputs[0], name, output.shape, ir.DataType.FLOAT)


def _set_output_types(node: ir.Node, target: ir.DataType) -> None:
    for value in node.outputs:
        if value.dtype == ir.DataType.FLOAT:
            set_dtype(value, target)
    if node.op_type == "Cast" and node.outputs[0].dtype == target:
        node.attributes["to"] = ir.AttrInt64("to", target)
