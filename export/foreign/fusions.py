"""Fuses GELUs and LayerNorms that exporters wrote out, by what their nodes compute.

QuickGELU, which has neither Erf nor Tanh, stays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from vit_edge.export.graph_edit import add_initializer, free_name, insert, rewire, sizes

from .evaluate import ELEMENTWISE, Array, constant, propagate, scalar

_POINTS = np.linspace(-8, 8, 161)
_GELU_TOLERANCE = 1e-6
"""The two kinds of GELU differ by 5e-4; constants rounded to fp32 by 1e-7."""
_DEPTH = 6


class FuseGelu(ir.passes.InPlacePass):
    """Fuses whatever computes GELU of one value, in any order of its factors."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        ends = [node for node in model.graph if node.op_type in ("Erf", "Tanh")]
        fused = [_fuse_gelu(node) for node in ends]
        return ir.passes.PassResult(model, modified=any(fused))


def _fuse_gelu(function: ir.Node) -> bool:
    approximate = "none" if function.op_type == "Erf" else "tanh"
    expected = gelu(_POINTS, approximate)
    for start in _starts(function):
        shape = sizes(start)
        points = _POINTS.reshape([1] * (len(shape) - 1) + [-1])
        for node, result in propagate(start, points, ELEMENTWISE):
            if result.size == expected.size and np.allclose(
                result.ravel(), expected, rtol=0, atol=_GELU_TOLERANCE
            ):
                fused = insert(node, "Gelu", [start], shape, {"approximate": approximate})
                rewire(node.outputs[0], fused)
                return True
    return False


def gelu(x: Array, approximate: str) -> Array:
    """Source: ONNX Gelu."""
    if approximate == "none":
        return np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x])
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


def _starts(function: ir.Node) -> Iterator[ir.Value]:
    """The values that may be GELU's input: ancestors of the Erf or Tanh, nearest first, through
    operators that work on each element.
    """
    level = [v for v in function.inputs if v is not None]
    for _ in range(_DEPTH):
        level = [v for v in dict.fromkeys(level) if scalar(v) is None and len(sizes(v)) > 1]
        yield from level
        producers = [value.producer() for value in level]
        level = [
            v
            for node in producers
            if node is not None and node.op_type in ELEMENTWISE
            for v in node.inputs
            if v is not None
        ]


_OPERATORS = ELEMENTWISE | {"ReduceMean"}
_ROWS = 6
_NORM_TOLERANCE = 1e-9


class FuseLayerNorm(ir.passes.InPlacePass):
    """Fuses any form of `scale * (x - mean) / sqrt(variance + epsilon) + bias` over the last axis.

    Scale and bias are read off what the nodes compute for random rows, and checked on others.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        fused = [
            _fuse_layer_norm(model.graph, node)
            for node in list(model.graph)
            if node.op_type == "Sub"
        ]
        return ir.passes.PassResult(model, modified=any(fused))


def _fuse_layer_norm(graph: ir.Graph, deviation: ir.Node) -> bool:
    """`deviation` is x - mean(x), which every way of writing it has."""
    x, mean = deviation.inputs
    shape = sizes(x)
    reduction = mean.producer() if mean is not None else None
    if x is None or reduction is None or reduction.op_type != "ReduceMean" or len(shape) < 2:
        return False
    if reduction.inputs[0] is not x:
        return False
    rows = np.random.default_rng(0).standard_normal((*[1] * (len(shape) - 2), _ROWS, shape[-1]))
    steps = list(propagate(x, rows, _OPERATORS))
    epsilon = next((e for node, _ in steps if (e := _epsilon(node)) is not None), None)
    end = _end(rows, steps, epsilon) if epsilon is not None else None
    if epsilon is None or end is None:
        return False
    nodes = [node for node, _ in steps]
    scale = _value_of(graph, nodes, end.scale, "weight")
    bias = _value_of(graph, nodes, end.bias, "bias")
    settings = {"axis": -1, "epsilon": float(epsilon), "stash_type": 1}
    fused = insert(end.node, "LayerNormalization", [x, scale, bias], shape, settings)
    rewire(end.node.outputs[0], fused)
    return True


@dataclass(frozen=True)
class _End:
    """The last node of a LayerNorm, and what it does to the normalised rows."""

    node: ir.Node
    scale: Array
    bias: Array


def _end(rows: Array, steps: Sequence[tuple[ir.Node, Array]], epsilon: float) -> _End | None:
    """The first node that gives normalised rows, or after it the last of those that scale and shift
    them.
    """
    centred = rows - rows.mean(-1, keepdims=True)
    normal = centred / np.sqrt(rows.var(-1, keepdims=True) + epsilon)
    end: _End | None = None
    for node, result in steps:
        affine = _affine(normal, result) if end is None or _continues(end.node, node) else None
        if affine is not None:
            end = _End(node, *affine)
    return end


def _epsilon(node: ir.Node) -> float | None:
    """The epsilon that is added to the variance, if `node` takes its root."""
    root = node.op_type == "Sqrt" or (node.op_type == "Pow" and scalar(node.inputs[1]) == -0.5)
    value = node.inputs[0]
    total = value.producer() if root and value is not None else None
    if total is None or total.op_type != "Add":
        return None
    return next((e for v in total.inputs if (e := scalar(v)) is not None), None)


def _continues(last: ir.Node, node: ir.Node) -> bool:
    """True if `node` is the one user of the output of `last`."""
    return list(last.outputs[0].consumers()) == [node] and not last.outputs[0].is_graph_output()


def _affine(normal: Array, result: Array) -> tuple[Array, Array] | None:
    """`scale, bias` with `result = scale * normal + bias`, or None."""
    if result.shape != normal.shape:
        return None
    x, y = normal.reshape(_ROWS, -1), result.reshape(_ROWS, -1)
    highest, lowest, columns = x.argmax(0), x.argmin(0), np.arange(x.shape[1])
    scale = (y[highest, columns] - y[lowest, columns]) / (x[highest, columns] - x[lowest, columns])
    bias = y[highest, columns] - scale * x[highest, columns]
    if not np.allclose(scale * x + bias, y, rtol=0, atol=_NORM_TOLERANCE * (1 + np.abs(y).max())):
        return None
    return scale, bias


def _value_of(graph: ir.Graph, nodes: Sequence[ir.Node], data: Array, part: str) -> ir.Value:
    """The file's own initializer where it holds these numbers, or else a new one."""
    data32 = data.astype(np.float32)
    for value in (value for node in nodes for value in node.inputs):
        own = constant(value) if value is not None and sizes(value) == data32.shape else None
        if value is not None and own is not None and np.allclose(own, data, rtol=1e-6, atol=1e-9):
            return value
    return add_initializer(graph, free_name(graph, part), data32)
