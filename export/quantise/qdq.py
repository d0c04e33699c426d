"""Writes Q/DQ pairs.

Source: ONNX QuantizeLinear, DequantizeLinear; zero point 0, as TensorRT wants it.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.graph_edit import add_initializer, describe, replace_input
from export.passes.linears import Linear

from .grid import Floats


def quantise_activation(graph: ir.Graph, value: ir.Value, scale: Floats) -> ir.Value:
    """What the Linears read in place of `value`; `scale` is a number."""
    name = str(value.name)
    step = add_initializer(graph, f"{name}/scale", scale.reshape(()))
    zero = add_initializer(graph, f"{name}/zero_point", np.zeros((), np.int8))
    quantise = ir.node("QuantizeLinear", [value, step, zero], name=f"{name}/QuantizeLinear")
    integers = describe(quantise.outputs[0], quantise.name, value.shape, ir.DataType.INT8)
    inputs = [integers, step, zero]
    dequantise = ir.node("DequantizeLinear", inputs, name=f"{name}/DequantizeLinear")
    producer = value.producer()
    assert producer is not None
    graph.insert_after(producer, (quantise, dequantise))
    return describe(dequantise.outputs[0], dequantise.name, value.shape, ir.DataType.FLOAT)


def quantise_weight(graph: ir.Graph, linear: Linear, integers: Floats, scales: Floats) -> None:
    """The Linear reads `integers` `[K, N]` as INT8 with a scale for each of the N outputs."""
    name = str(linear.weight.name)
    parts: dict[str, NDArray[np.generic]] = {
        "@int8": integers.astype(np.int8),
        "/scale": scales,
        "/zero_point": np.zeros(scales.shape, np.int8),
    }
    inputs = [add_initializer(graph, name + suffix, data) for suffix, data in parts.items()]
    node = ir.node("DequantizeLinear", inputs, {"axis": 1}, name=f"{name}/DequantizeLinear")
    graph.insert_before(linear.node, node)
    shape = linear.weight.shape
    replace_input(
        linear.node,
        linear.weight,
        describe(node.outputs[0], node.name, shape, ir.DataType.FLOAT),
    )
