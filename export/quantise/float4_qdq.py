"""Writes NVFP4's quantisers in the form that TensorRT fuses into 4-bit products.

    x -> TRT_FP4DynamicQuantize -> numbers, block scales
    block scales -> DequantizeLinear by the tensor's scale -> DequantizeLinear of the numbers

ONNX has no operator that quantises in blocks with scales computed at run time; TensorRT has one, in
its own domain. Other runtimes do not know it: `export.measure` replaces it by standard operators.

Source: NVIDIA TensorRT documentation, operator DynamicQuantize; ONNX DequantizeLinear of opset 23.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from vit_edge.export.graph_edit import add_initializer, array, describe, replace_input
from vit_edge.export.passes.linears import Linear

from .float4 import BLOCK
from .grid import FP4_GRID, FP8_GRID, Floats

DOMAIN, QUANTISER = "trt", "TRT_FP4DynamicQuantize"
OPSET, IR_VERSION = 23, 11
"""The first versions that have 4-bit floating-point numbers."""


def quantise_activation(graph: ir.Graph, value: ir.Value, scale: np.float32) -> ir.Value:
    """Adds the quantiser behind `value` `[..., K]`, and returns its dequantised output."""
    name, producer = str(value.name), value.producer()
    assert producer is not None
    step = add_initializer(graph, f"{name}/scale", np.array(scale, np.float32))
    quantise = ir.node(
        QUANTISER,
        [value, step],
        {"axis": -1, "block_size": BLOCK, "scale_type": FP8_GRID.dtype.value},
        domain=DOMAIN,
        num_outputs=2,
        name=f"{name}/DynamicQuantize",
    )
    numbers, scales = quantise.outputs
    describe(numbers, f"{name}@{FP4_GRID.name}", value.shape, FP4_GRID.dtype)
    describe(scales, f"{name}/scales", _in_blocks(value.shape), FP8_GRID.dtype)
    nodes = _dequantise(f"{name}/", numbers, scales, step, axis=-1)
    graph.insert_after(producer, (quantise, *nodes))
    _require_opset(graph)
    return nodes[-1].outputs[0]


def quantise_weight(
    graph: ir.Graph, linear: Linear, numbers: Floats, scales: Floats, scale: np.float32
) -> None:
    """Makes the Linear read `numbers` `[K, N]` of E2M1, with block scales `[K / 16, N]` that are
    numbers of E4M3 times `scale`.
    """
    name = str(linear.weight.name)
    in_four, in_eight = FP4_GRID.dtype.numpy(), FP8_GRID.dtype.numpy()
    nodes = _dequantise(
        f"{linear.node.name}@",
        add_initializer(graph, f"{name}@{FP4_GRID.name}", numbers.astype(in_four)),
        add_initializer(graph, f"{name}/scales", (scales / scale).astype(in_eight)),
        add_initializer(graph, f"{name}/scale", np.array(scale, np.float32)),
        axis=0,
    )
    graph.insert_before(linear.node, nodes)
    replace_input(linear.node, linear.weight, nodes[-1].outputs[0])
    _require_opset(graph)


def dequantises_float4(node: ir.Node) -> bool:
    """True for either of the two nodes that dequantise NVFP4; both compute in fp32."""
    if node.op_type != "DequantizeLinear":
        return False
    users = [user for value in node.outputs for user in value.consumers()]
    return any(dequantised_scales(one) is not None for one in (node, *users))


def dequantised_scales(node: ir.Node) -> ir.Node | None:
    """The node that dequantises the block scales of a DequantizeLinear; None if it is not one of
    NVFP4.
    """
    if node.op_type != "DequantizeLinear" or node.inputs[1] is None:
        return None
    return node.inputs[1].producer()


def _dequantise(
    label: str, numbers: ir.Value, scales: ir.Value, step: ir.Value, axis: int
) -> tuple[ir.Node, ir.Node]:
    first = ir.node("DequantizeLinear", [scales, step], name=f"{label}DequantizeLinear_scales")
    describe(first.outputs[0], first.name, scales.shape, ir.DataType.FLOAT)
    second = ir.node(
        "DequantizeLinear",
        [numbers, first.outputs[0]],
        {"axis": axis, "block_size": BLOCK},
        name=f"{label}DequantizeLinear",
    )
    describe(second.outputs[0], second.name, numbers.shape, ir.DataType.FLOAT)
    return first, second


def _in_blocks(shape: ir.Shape | None) -> ir.Shape | None:
    if shape is None or not isinstance(shape[-1], int):
        return None
    return ir.Shape([*list(shape)[:-1], shape[-1] // BLOCK])


def _require_opset(graph: ir.Graph) -> None:
    graph.opset_imports[""] = max(graph.opset_imports[""], OPSET)
    graph.opset_imports[DOMAIN] = 1


def weight_of(node: ir.Node) -> Floats:
    """float32 `[K, N]`: the weight that a DequantizeLinear of constant numbers gives."""
    first = dequantised_scales(node)
    assert first is not None
    numbers, scales, step = (array(value) for value in (node.inputs[0], *first.inputs) if value)
    steps = scales.astype(np.float32) * np.float32(step)
    weight: Floats = numbers.astype(np.float32) * np.repeat(steps, BLOCK, axis=0)
    return weight
