"""Fuses GELUs that were written with Erf or Tanh; QuickGELU, which has neither, stays."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from .edit import insert, rewire, sizes
from .evaluate import ELEMENTWISE, Array, scalar, spread

_POINTS = np.linspace(-8, 8, 161)
_TOLERANCE = 1e-6
"""The two kinds of GELU differ by 5e-4; constants rounded to fp32 by 1e-7."""
_DEPTH = 6


class FuseGelu(ir.passes.InPlacePass):
    """Fuses whatever computes GELU of one value, in any order of its factors."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        ends = [node for node in model.graph if node.op_type in ("Erf", "Tanh")]
        fused = [_fuse(node) for node in ends]
        return ir.passes.PassResult(model, modified=any(fused))


def _fuse(function: ir.Node) -> bool:
    approximate = "none" if function.op_type == "Erf" else "tanh"
    expected = gelu(_POINTS, approximate)
    for start in _starts(function):
        shape = sizes(start)
        points = _POINTS.reshape([1] * (len(shape) - 1) + [-1])
        for node, result in spread(start, points, ELEMENTWISE):
            if result.size == expected.size and np.allclose(
                result.ravel(), expected, rtol=0, atol=_TOLERANCE
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
