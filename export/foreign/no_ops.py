"""Removes what changes nothing."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .attention import reshape
from .edit import rewire, sizes
from .evaluate import constant

_NEUTRAL = {"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0}


class RemoveNoOps(ir.passes.InPlacePass):
    """Casts to the same type, sums with zeros (an empty attention mask), Dropout, layout changes
    that change no layout, Gathers of everything in order, and guards against NaN behind a Softmax.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph):
            kept = _kept(node)
            if kept is not None and not node.outputs[0].is_graph_output():
                rewire(node.outputs[0], kept)
                modified = True
            elif _gathers_all(node):
                _make_reshape(node)
                modified = True
        return ir.passes.PassResult(model, modified)


def _kept(node: ir.Node) -> ir.Value | None:
    """The input that `node` hands on unchanged."""
    first = node.inputs[0] if node.inputs else None
    if first is None:
        return None
    same_shape = sizes(first) == sizes(node.outputs[0]) != ()
    if node.op_type in ("Identity", "Dropout"):
        return first
    if node.op_type == "Cast":
        return first if first.dtype == node.outputs[0].dtype else None
    if node.op_type in ("Reshape", "Expand"):
        return first if same_shape else None
    if node.op_type == "Transpose":
        perm = list(node.attributes.get_ints("perm", ()))
        return first if perm and perm == sorted(perm) else None
    if node.op_type == "Where":
        return _guarded(node)
    return _beside_neutral(node) if node.op_type in _NEUTRAL else None


def _gathers_all(node: ir.Node) -> bool:
    """True for a Gather of every element of a vector in order: PyTorch's `as_strided`."""
    if node.op_type != "Gather" or len(sizes(node.inputs[0])) != 1:
        return False
    indices = constant(node.inputs[1])
    count = sizes(node.inputs[0])[0]
    return indices is not None and np.array_equal(indices.ravel(), np.arange(count))


def _make_reshape(gather: ir.Node) -> None:
    result = gather.outputs[0]
    assert gather.inputs[0] is not None
    shaped = reshape(gather, gather.inputs[0], sizes(result))
    rewire(result, shaped)


def _beside_neutral(node: ir.Node) -> ir.Value | None:
    sides = [(node.inputs[0], node.inputs[1])]
    if node.op_type in ("Add", "Mul"):
        sides.append((node.inputs[1], node.inputs[0]))
    for value, number in sides:
        data = constant(number)
        if value is None or data is None or constant(value) is not None:
            continue
        same_shape = sizes(value) == sizes(node.outputs[0])
        if same_shape and bool((data == _NEUTRAL[node.op_type]).all()):
            return value
    return None


def _guarded(node: ir.Node) -> ir.Value | None:
    """`Where(IsNaN(p), 0, p)` is p for a Softmax p of finite scores."""
    condition, _, value = node.inputs
    test = condition.producer() if condition is not None else None
    softmax = value.producer() if value is not None else None
    if test is None or softmax is None or test.op_type != "IsNaN" or test.inputs[0] is not value:
        return None
    return value if softmax.op_type == "Softmax" else None
