"""Writes Einsum as MatMul, which every builder takes: TensorRT's parser refuses some Einsums."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir

from vit_edge.export.graph_edit import add_initializer

from .attention import reshape
from .edit import free_name, insert, rewire, sizes
from .evaluate import constant

_TWO_OPERANDS = re.compile(r"([a-z]+),([a-z]+)->([a-z]+)", re.IGNORECASE)


class WriteEinsumAsMatMul(ir.passes.InPlacePass):
    """`Transpose, Reshape -> MatMul -> Reshape, Transpose` in the place of an Einsum of two.

    One that repeats a letter in an operand, or sums over a letter that only one has, stays.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        nodes = [node for node in model.graph if node.op_type == "Einsum"]
        written = [_write(node) for node in nodes]
        return ir.passes.PassResult(model, modified=any(written))


@dataclass(frozen=True)
class _Letters:
    """The letters of an Einsum: in both operands and the result, summed over, in one operand."""

    batch: str
    summed: str
    left: str
    right: str


def _write(node: ir.Node) -> bool:
    equation = node.attributes.get_string("equation", "").replace(" ", "")
    match = _TWO_OPERANDS.fullmatch(equation)
    if match is None or len(node.inputs) != 2:
        return False
    first, second, result = match.groups()
    letters = _sort(first, second, result)
    shapes = [sizes(value) for value in node.inputs]
    if letters is None or not all(shapes):
        return False
    size = {**dict(zip(first, shapes[0], strict=True)), **dict(zip(second, shapes[1], strict=True))}
    count = [prod(size[x] for x in part) for part in (letters.batch, letters.left, letters.right)]
    b, m, n, k = *count, prod(size[x] for x in letters.summed)
    lone = not letters.batch
    left_order = letters.batch + letters.left + letters.summed
    right_order = letters.batch + letters.summed + letters.right
    rows = tuple(size[x] for x in letters.left)
    left = _arranged(node, 0, first, left_order, (*rows, k) if lone else (b, m, k))
    right = _arranged(node, 1, second, right_order, (k, n) if lone else (b, k, n))
    product = insert(node, "MatMul", [left, right], (*rows, n) if lone else (b, m, n))
    order = letters.batch + letters.left + letters.right
    whole = reshape(node, product, tuple(size[x] for x in order))
    perm = [order.index(x) for x in result]
    shape = tuple(size[x] for x in result)
    rewire(node.outputs[0], insert(node, "Transpose", [whole], shape, {"perm": perm}))
    return True


def _sort(first: str, second: str, result: str) -> _Letters | None:
    if any(len(set(part)) != len(part) for part in (first, second, result)):
        return None
    both = [x for x in first if x in second]
    left = "".join(x for x in first if x not in second)
    right = "".join(x for x in second if x not in first)
    batch = "".join(x for x in both if x in result)
    summed = "".join(x for x in both if x not in result)
    if not summed or {*result} != {*batch, *left, *right}:
        return None
    return _Letters(batch, summed, left, right)


def _arranged(
    node: ir.Node, index: int, letters: str, order: str, shape: Sequence[int]
) -> ir.Value:
    """An operand with its axes in that order, then in that shape; of a constant another one."""
    value = node.inputs[index]
    assert value is not None
    perm = [letters.index(x) for x in order]
    if constant(value) is not None and value.const_value is not None:
        data = np.ascontiguousarray(value.const_value.numpy().transpose(perm)).reshape(shape)
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        return add_initializer(graph, free_name(graph, "weight"), data)
    turned = tuple(sizes(value)[axis] for axis in perm)
    moved = insert(node, "Transpose", [value], turned, {"perm": perm})
    return moved if turned == tuple(shape) else reshape(node, moved, tuple(shape))
