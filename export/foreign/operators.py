"""Writes operators that builders refuse, or that fix the batch, as others that compute the same.

TensorRT's parser refuses Col2Im and some Einsums; a ScatterND of constant indices knows one batch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vit_edge.export.graph_edit import add_initializer, free_name, insert, rewire, sizes

from .attention import reshape
from .evaluate import constant


class WriteCol2ImAsConvolution(ir.passes.InPlacePass):
    """`Reshape -> ConvTranspose` in the place of a Col2Im over two axes.

    Each input channel is one place of the block of its output channel: its kernel is 1 at that
    place and 0 elsewhere, so that overlapping blocks are summed up.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        nodes = [node for node in model.graph if node.op_type == "Col2Im"]
        written = [_write_col2im(node) for node in nodes]
        return ir.passes.PassResult(model, modified=any(written))


def _write_col2im(node: ir.Node) -> bool:
    columns, (image, block) = node.inputs[0], map(constant, node.inputs[1:3])
    shape = sizes(columns)
    if columns is None or image is None or block is None or len(image) != 2 or len(shape) != 3:
        return False
    size, kernel = image.astype(int), block.astype(int)
    strides = np.array(node.attributes.get_ints("strides", (1, 1)))
    dilations = np.array(node.attributes.get_ints("dilations", (1, 1)))
    pads = np.array(node.attributes.get_ints("pads", (0, 0, 0, 0)))
    padding, reach = pads[:2] + pads[2:], dilations * (kernel - 1) + 1
    blocks = (size + padding - reach) // strides + 1
    left_over = size - ((blocks - 1) * strides - padding + reach)
    channels = shape[1] // prod(kernel.tolist())
    grid = reshape(node, columns, (*shape[:2], *blocks.tolist()))
    attributes = {
        "group": channels,
        "kernel_shape": kernel.tolist(),
        "strides": strides.tolist(),
        "dilations": dilations.tolist(),
        "pads": pads.tolist(),
        "output_padding": left_over.tolist(),
    }
    inputs = [grid, _places(node, channels, kernel.tolist())]
    images = (shape[0], channels, *size.tolist())
    rewire(node.outputs[0], insert(node, "ConvTranspose", inputs, images, attributes))
    return True


def _places(node: ir.Node, channels: int, kernel: list[int]) -> ir.Value:
    """float32 `[channels * places, 1, height, width]`, the kernels."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    places = prod(kernel)
    one = np.eye(places, dtype=np.float32).reshape(places, 1, *kernel)
    return add_initializer(graph, free_name(graph, "places"), np.tile(one, (channels, 1, 1, 1)))


_TWO_OPERANDS = re.compile(r"([a-z]+),([a-z]+)->([a-z]+)", re.IGNORECASE)


class WriteEinsumAsMatMul(ir.passes.InPlacePass):
    """`Transpose, Reshape -> MatMul -> Reshape, Transpose` in the place of an Einsum of two.

    One that repeats a letter in an operand, or sums over a letter that only one has, stays.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        nodes = [node for node in model.graph if node.op_type == "Einsum"]
        written = [_write_einsum(node) for node in nodes]
        return ir.passes.PassResult(model, modified=any(written))


@dataclass(frozen=True)
class _Letters:
    """The letters of an Einsum: in both operands and the result, summed over, in one operand."""

    batch: str
    summed: str
    left: str
    right: str


def _write_einsum(node: ir.Node) -> bool:
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


class WriteScatterAsConcat(ir.passes.InPlacePass):
    """`data[:, :, 1:, 1:] = updates`, as exporters write an assignment to a slice.

    Indices that add up, or that do not name a box of `data` in its own order, stay.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        nodes = [node for node in model.graph if node.op_type == "ScatterND"]
        written = [_write_scatter(node) for node in nodes]
        return ir.passes.PassResult(model, modified=any(written))


def _write_scatter(node: ir.Node) -> bool:
    data, indices, updates = node.inputs[:3]
    shape, places = sizes(data), constant(indices)
    if data is None or updates is None or places is None or not shape:
        return False
    if node.attributes.get_string("reduction", "none") != "none":
        return False
    box = _box(places, shape)
    if box is None or int(np.prod([stop - start for start, stop in box])) == 0:
        return False
    inside = tuple(stop - start for start, stop in box)
    result = updates
    if sizes(updates) != inside:
        return False
    for axis in reversed(range(len(shape))):
        start, stop = box[axis]
        if (start, stop) == (0, shape[axis]):
            continue
        before, behind = box[:axis], [(0, size) for size in shape[axis + 1 :]]
        edges = ((0, start), (stop, shape[axis]))
        pieces = [_cut(node, data, [*before, edge, *behind]) for edge in edges]
        parts = [pieces[0], result, pieces[1]]
        whole = tuple(
            stop - start if i < axis else size for i, (size, (start, stop)) in
            enumerate(zip(shape, box, strict=True))
        )  # fmt: skip
        kept = [part for part in parts if part is not None]
        result = insert(node, "Concat", kept, whole, {"axis": axis})
    rewire(node.outputs[0], result)
    return True


def _box(places: NDArray[np.generic], shape: tuple[int, ...]) -> list[tuple[int, int]] | None:
    """Start and stop along each axis of what the indices `[..., axes]` name, in order."""
    axes = places.shape[-1]
    rows = places.reshape(-1, axes).astype(np.int64)
    rows = np.where(rows < 0, rows + np.array(shape[:axes]), rows)
    if not len(rows):
        return None
    starts, stops = rows.min(axis=0), rows.max(axis=0) + 1
    grid = np.indices(stops - starts).reshape(axes, -1).T + starts
    if grid.shape != rows.shape or not np.array_equal(grid, rows):
        return None
    whole = [(0, size) for size in shape[axes:]]
    return [*zip(starts.tolist(), stops.tolist(), strict=True), *whole]


def _cut(node: ir.Node, data: ir.Value, box: list[tuple[int, int]]) -> ir.Value | None:
    """A box of `data`; None for an empty one."""
    shape = sizes(data)
    if any(stop <= start for start, stop in box):
        return None
    axes = [i for i, edges in enumerate(box) if edges != (0, shape[i])]
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    bounds = [
        add_initializer(graph, free_name(graph, "bounds"), np.array(numbers, dtype=np.int64))
        for numbers in ([box[i][0] for i in axes], [box[i][1] for i in axes], axes)
    ]
    return insert(node, "Slice", [data, *bounds], [stop - start for start, stop in box])
