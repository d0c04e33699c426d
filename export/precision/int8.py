"""INT8 for the Linears: weights per output channel, activations per tensor, both symmetric."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibration.observers import INT8_MAX
from calibration.table import CalibrationTable
from export.graph_edit import add_initializer, array, describe, replace_input
from export.passes.linears import Linear, find_linears

from .base import Budget, Graphs
from .fp16 import FP16, to_fp16

MIN_SIZE = 16
"""Products smaller than this gain nothing from INT8 (ModelOpt's rule)."""


@dataclass(frozen=True)
class INT8:
    """See `export.precision.base.Precision`.

    Only the inputs and weights of the blocks' Linears carry Q/DQ: never the residual stream, whose
    outliers would destroy the model. Patch embedding and head, a hundredth of the work, stay as
    they are. Around the Linears is fp32 for CPUs and fp16 for GPUs; the integers are the same in
    both.
    """

    around: FP16 = FP16()
    budget: Budget = Budget(
        max_logit_error=None, max_drop=0.5, min_agreement=0.985, min_cosine=0.99, users_drop=True
    )

    def lower(self, model: ir.Model, table: CalibrationTable) -> Graphs:
        quantised = model.clone()
        quantise(quantised.graph, table)
        return {"cpu": quantised, "gpu": to_fp16(quantised.clone(), table, self.around.headroom)}


def quantisable(graph: ir.Graph) -> list[Linear]:
    """The Linears that INT8 is for."""
    return [linear for linear in find_linears(graph) if min(array(linear.weight).shape) >= MIN_SIZE]


def sites(graph: ir.Graph) -> list[str]:
    """The activations to calibrate, each once: the inputs of the quantisable Linears."""
    return list(dict.fromkeys(str(linear.activation.name) for linear in quantisable(graph)))


def quantise(graph: ir.Graph, table: CalibrationTable) -> None:
    """Puts Q/DQ on the quantisable Linears, in place.

    Linears that share an input share its Q/DQ.
    """
    quantised: dict[ir.Value, ir.Value] = {}
    for linear in quantisable(graph):
        if linear.activation not in quantised:
            amax = table.amax[str(linear.activation.name)]
            quantised[linear.activation] = _quantise_activation(graph, linear.activation, amax)
        linear.node.replace_input_with(0, quantised[linear.activation])
        replace_input(linear.node, linear.weight, _quantise_weight(graph, linear))


def representable_scale(amax: NDArray[np.float32]) -> NDArray[np.float32]:
    """`amax / 127`, rounded up to a value that fp16 has: the fp32 and the fp16 graph then hold the
    same integers.
    """
    wanted = np.maximum(amax.astype(np.float32) / INT8_MAX, np.finfo(np.float16).smallest_subnormal)
    scale = wanted.astype(np.float16)
    too_small = scale.astype(np.float32) < wanted
    up = np.nextafter(scale, np.float16(np.inf), dtype=np.float16)
    return np.where(too_small, up, scale).astype(np.float32)


def _quantise_activation(graph: ir.Graph, value: ir.Value, amax: float) -> ir.Value:
    """Source: ONNX QuantizeLinear, DequantizeLinear; zero point 0, as TensorRT wants it."""
    name = str(value.name)
    scale = add_initializer(graph, f"{name}/scale", representable_scale(np.array(amax)).reshape(()))
    zero = add_initializer(graph, f"{name}/zero_point", np.zeros((), np.int8))
    quantise_node = ir.node("QuantizeLinear", [value, scale, zero], name=f"{name}/QuantizeLinear")
    integers = describe(quantise_node.outputs[0], quantise_node.name, value.shape, ir.DataType.INT8)
    dequantise_node = ir.node(
        "DequantizeLinear", [integers, scale, zero], name=f"{name}/DequantizeLinear"
    )
    producer = value.producer()
    assert producer is not None
    graph.insert_after(producer, (quantise_node, dequantise_node))
    return describe(
        dequantise_node.outputs[0], dequantise_node.name, value.shape, ir.DataType.FLOAT
    )


def _quantise_weight(graph: ir.Graph, linear: Linear) -> ir.Value:
    """int8 `[K, N]` with a scale for each of the N output channels."""
    name, weight = str(linear.weight.name), array(linear.weight)
    scales = representable_scale(np.abs(weight).max(axis=0))
    integers = np.clip(np.rint(weight / scales), -INT8_MAX, INT8_MAX).astype(np.int8)
    inputs = [
        add_initializer(graph, f"{name}@int8", integers),
        add_initializer(graph, f"{name}/scale", scales),
        add_initializer(graph, f"{name}/zero_point", np.zeros(scales.shape, np.int8)),
    ]
    node = ir.node("DequantizeLinear", inputs, {"axis": 1}, name=f"{name}/DequantizeLinear")
    graph.insert_before(linear.node, node)
    return describe(node.outputs[0], node.name, linear.weight.shape, ir.DataType.FLOAT)
