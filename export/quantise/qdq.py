"""Writes Q/DQ pairs.

Source: ONNX QuantizeLinear, DequantizeLinear; zero point 0, as TensorRT wants it.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vit_edge.export.graph_edit import add_initializer, describe, replace_input
from vit_edge.export.passes.linears import Linear

from .grid import Floats, Grid

BLOCKS_OPSET = 21
"""The opset from which DequantizeLinear knows 4 bits and blocks."""


def quantise_activation(graph: ir.Graph, value: ir.Value, scale: Floats, grid: Grid) -> ir.Value:
    """Adds Q/DQ behind `value` and returns its output; `scale` is a number."""
    name = str(value.name)
    step = add_initializer(graph, f"{name}/scale", scale.reshape(()))
    zero = _add_numbers(graph, f"{name}/zero_point", np.zeros((), np.float32), grid)
    quantise = ir.node("QuantizeLinear", [value, step, zero], name=f"{name}/QuantizeLinear")
    numbers = describe(quantise.outputs[0], quantise.name, value.shape, grid.dtype)
    inputs = [numbers, step, zero]
    dequantise = ir.node("DequantizeLinear", inputs, name=f"{name}/DequantizeLinear")
    producer = value.producer()
    assert producer is not None
    graph.insert_after(producer, (quantise, dequantise))
    return describe(dequantise.outputs[0], dequantise.name, value.shape, ir.DataType.FLOAT)


def quantise_weight(
    graph: ir.Graph, linear: Linear, numbers: Floats, scales: Floats, grid: Grid
) -> None:
    """Makes the Linear read `numbers` `[K, N]` of `grid`, with a scale for each output, or for
    each block of input channels too.
    """
    name = str(linear.weight.name)
    zeros = np.zeros(scales.shape, np.float32)
    inputs = [
        _add_numbers(graph, f"{name}@{grid.name}", numbers, grid),
        add_initializer(graph, f"{name}/scale", scales),
        _add_numbers(graph, f"{name}/zero_point", zeros, grid),
    ]
    attributes = {"axis": 1} if scales.ndim == 1 else _blocks(graph, len(numbers) // len(scales))
    node = ir.node("DequantizeLinear", inputs, attributes, name=f"{name}/DequantizeLinear")
    graph.insert_before(linear.node, node)
    shape = linear.weight.shape
    replace_input(
        linear.node,
        linear.weight,
        describe(node.outputs[0], node.name, shape, ir.DataType.FLOAT),
    )


def dequantise_weight(
    graph: ir.Graph, node: ir.Node, weight: ir.Value, numbers: Floats, scales: Floats, grid: Grid
) -> None:
    """Makes a convolution read `numbers` `[N, ...]` of `grid`, with a scale for each output."""
    name = str(weight.name)
    inputs = [
        _add_numbers(graph, f"{name}@{grid.name}", numbers, grid),
        add_initializer(graph, f"{name}/scale", scales),
        _add_numbers(graph, f"{name}/zero_point", np.zeros(scales.shape, np.float32), grid),
    ]
    dequantise = ir.node("DequantizeLinear", inputs, {"axis": 0}, name=f"{name}/DequantizeLinear")
    graph.insert_before(node, dequantise)
    read = describe(dequantise.outputs[0], dequantise.name, weight.shape, ir.DataType.FLOAT)
    replace_input(node, weight, read)


def _blocks(graph: ir.Graph, size: int) -> dict[str, int]:
    graph.opset_imports[""] = max(graph.opset_imports[""], BLOCKS_OPSET)
    return {"axis": 0, "block_size": size}


def _add_numbers(graph: ir.Graph, name: str, numbers: Floats, grid: Grid) -> ir.Value:
    data: NDArray[np.generic] = numbers.astype(grid.dtype.numpy())
    return add_initializer(graph, name, data)
