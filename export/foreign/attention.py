"""Writes attention as our own exporter does, whatever layout it came in.

Heads are cut out of a Linear's output by Reshape, Transpose, Slice, Split or Gather in many ways.
What such a chain does is found by sending the positions of the elements through it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vit_edge.export.graph_edit import (
    add_initializer,
    free_name,
    insert,
    insert_split,
    rewire,
    sizes,
)

from .evaluate import LAYOUT, Array, compute, propagate, scalar

_SCALING = ("Mul", "Div")
_HEADS, _KEYS = (0, 2, 1, 3), (0, 2, 3, 1)
"""From [B, N, heads, size] to the heads of queries and values, and to those of keys, transposed."""


@dataclass(frozen=True)
class _Heads:
    """Heads `[heads, N, size]` that are columns `offset` and on of `source`, times `factor`."""

    source: ir.Value
    offset: int
    factor: float
    shape: tuple[int, int, int]


class WriteAttention(ir.passes.InPlacePass):
    """`Split, Reshape, Transpose, Mul by the whole scale -> MatMul -> Softmax -> MatMul ->
    Transpose, Reshape`.

    Attention over anything but columns of Linears (rotary embedding, normalised queries, a mask) is
    left as it is.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        splits: dict[ir.Value, list[ir.Value]] = {}
        nodes = [node for node in model.graph if node.op_type == "Softmax"]
        written = [_write(node, splits) for node in nodes]
        return ir.passes.PassResult(model, modified=any(written))


def _write(softmax: ir.Node, splits: dict[ir.Value, list[ir.Value]]) -> bool:
    product, factor = _scores(softmax.inputs[0])
    context = _context(softmax)
    if product is None or context is None:
        return False
    q = _heads(product.inputs[0], transposed=False)
    k = _heads(product.inputs[1], transposed=True)
    v = _heads(context.inputs[1], transposed=False)
    if q is None or k is None or v is None or not q.shape == k.shape == v.shape:
        return False
    heads, tokens, size = q.shape
    square = (1, heads, tokens, tokens)
    keys, values = _cut(context, k, _KEYS, splits), _cut(context, v, _HEADS, splits)
    queries = _cut(context, q, _HEADS, splits)
    queries = _scaled(context, queries, factor * q.factor * k.factor)
    scores = insert(context, "MatMul", [queries, keys], square)
    weights = insert(context, "Softmax", [scores], square, {"axis": -1})
    values = _scaled(context, values, v.factor)
    result = insert(context, "MatMul", [weights, values], (1, heads, tokens, size))
    _join(context, result, q.shape)
    return True


def _context(softmax: ir.Node) -> ir.Node | None:
    """The product of the attention weights, over the last axis, with the values."""
    last_axis, users = len(sizes(softmax.outputs[0])) - 1, list(softmax.outputs[0].consumers())
    if softmax.attributes.get_int("axis", -1) not in (-1, last_axis) or len(users) != 1:
        return None
    weighs = users[0].op_type == "MatMul" and users[0].inputs[0] is softmax.outputs[0]
    return users[0] if weighs else None


def _scores(value: ir.Value | None) -> tuple[ir.Node | None, float]:
    """The product that makes the scores, and what they are multiplied by after it."""
    factor = 1.0
    while value is not None and (node := value.producer()) is not None:
        if node.op_type == "MatMul":
            return node, factor
        step = _factor(node)
        if step is None:
            break
        value, factor = step[0], factor * step[1]
    return None, factor


def _factor(node: ir.Node) -> tuple[ir.Value, float] | None:
    """`value, factor` of a node that is `value * factor`."""
    if node.op_type not in _SCALING:
        return None
    first, second = node.inputs
    number = scalar(second)
    if first is not None and number:
        return first, number if node.op_type == "Mul" else 1 / number
    number = scalar(first)
    if second is not None and number and node.op_type == "Mul":
        return second, number
    return None


def _heads(value: ir.Value | None, *, transposed: bool) -> _Heads | None:
    """The columns that `value` `[1, heads, N, size]` or `[heads, N, size]` (keys: `[..., size, N]`)
    is cut from.
    """
    path, factor, source = list[ir.Node](), 1.0, value
    while source is not None and (node := source.producer()) is not None:
        step = _factor(node)
        if step is not None:
            factor *= step[1]
        elif node.op_type not in LAYOUT:
            break
        path.append(node)
        source = step[0] if step is not None else node.inputs[0]
    shape, cut = sizes(source), sizes(value)
    if source is None or len(shape) != 3 or 1 not in shape[:2] or len(cut) not in (3, 4):
        return None
    if len(cut) == 4 and cut[0] != 1:
        return None
    positions = _positions(source, path, value)
    if positions is None:
        return None
    positions = positions.reshape(cut[-3:])
    if transposed:
        positions = positions.transpose(0, 2, 1)
    return _columns(source, positions, factor)


def _positions(
    source: ir.Value, path: list[ir.Node], end: ir.Value | None
) -> NDArray[np.int64] | None:
    """Position in `source` of each element of `end`."""
    shape = sizes(source)
    known: dict[ir.Value, Array] = {source: np.arange(np.prod(shape), dtype=float).reshape(shape)}
    for node in reversed(path):
        step = _factor(node)
        results = compute(node, known) if step is None else [known[step[0]]]
        if results is None:
            return None
        known.update(zip(node.outputs, results, strict=True))
    return known[end].astype(np.int64) if end in known else None


def _columns(source: ir.Value, positions: NDArray[np.int64], factor: float) -> _Heads | None:
    """The heads, if head h of token n is columns `offset + h size` and on of row n."""
    heads, tokens, size = positions.shape
    width, offset = sizes(source)[-1], int(positions[0, 0, 0])
    h, n, i = np.indices(positions.shape)
    regular = bool((positions == n * width + offset + h * size + i).all())
    parts = width // (heads * size)
    if not regular or offset % (heads * size) or parts * heads * size != width:
        return None
    return _Heads(source, offset, factor, (heads, tokens, size))


def _cut(
    before: ir.Node,
    heads: _Heads,
    order: tuple[int, ...],
    splits: dict[ir.Value, list[ir.Value]],
) -> ir.Value:
    """`[1, heads, N, size]` in that order, cut the one way."""
    count, tokens, size = heads.shape
    source = heads.source
    if source not in splits:
        batch_first = source
        if sizes(source)[0] != 1:  # [N, B, width]
            rows = (1, tokens, sizes(source)[2])
            batch_first = insert(before, "Transpose", [source], rows, {"perm": [1, 0, 2]})
        parts = sizes(source)[2] // (count * size)
        one = [batch_first]
        splits[source] = one if parts == 1 else list(insert_split(before, batch_first, parts))
    part = splits[source][heads.offset // (count * size)]
    shaped = reshape(before, part, (1, tokens, count, size))
    shape = tuple(sizes(shaped)[axis] for axis in order)
    return insert(before, "Transpose", [shaped], shape, {"perm": list(order)})


def reshape(before: ir.Node, value: ir.Value, shape: tuple[int, ...]) -> ir.Value:
    """A Reshape to a constant shape."""
    graph = before.graph
    assert isinstance(graph, ir.Graph)
    target = add_initializer(graph, free_name(graph, "shape"), np.array(shape, dtype=np.int64))
    return insert(before, "Reshape", [value, target], shape)


def _scaled(before: ir.Node, value: ir.Value, factor: float) -> ir.Value:
    if factor == 1:
        return value
    graph = before.graph
    assert isinstance(graph, ir.Graph)
    number = add_initializer(graph, free_name(graph, "scale"), np.array(factor, dtype=np.float32))
    return insert(before, "Mul", [value, number], sizes(value))


def _join(context: ir.Node, result: ir.Value, shape: tuple[int, int, int]) -> None:
    """Puts `result` `[1, heads, N, size]` in the place of the output of `context`."""
    heads, tokens, size = shape
    old = context.outputs[0]
    positions = np.arange(heads * tokens * size, dtype=float).reshape(shape)
    expected = positions.transpose(1, 0, 2).ravel()
    end = None
    for node, laid_out in propagate(old, positions.reshape(sizes(old)), LAYOUT):
        rows = laid_out.ndim == 3 and 1 in laid_out.shape[:2] and laid_out.shape[2] == heads * size
        if rows and np.array_equal(laid_out.ravel(), expected):
            end = node
    if end is None:
        rewire(old, result if len(sizes(old)) == 4 else reshape(context, result, sizes(old)))
        return
    rows = insert(context, "Transpose", [result], (1, tokens, heads, size), {"perm": list(_HEADS)})
    joined = reshape(context, rows, (1, tokens, heads * size))
    if sizes(end.outputs[0])[0] != 1:
        there = sizes(end.outputs[0])
        joined = insert(context, "Transpose", [joined], there, {"perm": [1, 0, 2]})
    rewire(end.outputs[0], joined)
