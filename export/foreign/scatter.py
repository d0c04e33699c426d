"""Writes ScatterND that replaces a box of a tensor as Slice and Concat, which know any batch."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vit_edge.export.graph_edit import add_initializer

from .edit import free_name, insert, rewire, sizes
from .evaluate import constant


class WriteScatterAsConcat(ir.passes.InPlacePass):
    """`data[:, :, 1:, 1:] = updates`, as exporters write an assignment to a slice.

    Indices that add up, or that do not name a box of `data` in its own order, stay.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        nodes = [node for node in model.graph if node.op_type == "ScatterND"]
        written = [_write(node) for node in nodes]
        return ir.passes.PassResult(model, modified=any(written))


def _write(node: ir.Node) -> bool:
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
