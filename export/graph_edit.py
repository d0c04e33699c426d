"""The few graph edits that passes, precisions and the simulation share."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


def array(value: ir.Value) -> NDArray[np.float32]:
    """The data of an initializer."""
    assert value.const_value is not None
    return value.const_value.numpy()


def add_initializer(graph: ir.Graph, name: str, data: NDArray[np.generic]) -> ir.Value:
    """Adds a constant, under that name or, where the graph has one of it already, with a number."""
    return register(graph, ir.val(name, const_value=ir.tensor(data, name=name)))


def register(graph: ir.Graph, constant: ir.Value) -> ir.Value:
    """Adds a constant, numbered where the graph has one of its name already, and returns it."""
    stem, number = constant.name, 1
    while constant.name in graph.initializers:
        number += 1
        constant.name = f"{stem}_{number}"
    graph.register_initializer(constant)
    return constant


def rows_per_image(value: ir.Value) -> int:
    """The vectors along the last axis of `value` that one image has. A first axis of `4*batch`
    holds four windows of each image.
    """
    return prod(size_per_image(size) for size in (value.shape or ())[:-1])


def size_per_image(size: int | ir.SymbolicDim) -> int:
    """A size of a shape for one image: that of `4*batch` is 4, that of `batch` 1."""
    if isinstance(size, int):
        return size
    factor, star, _ = str(size.value).partition("*")
    return int(factor) if star and factor.isdecimal() else 1


def describe(
    value: ir.Value, name: str | None, shape: ir.Shape | None, dtype: ir.DataType
) -> ir.Value:
    """Sets name, shape and type of a new node's output, and returns it."""
    value.name, value.shape = name, shape
    set_dtype(value, dtype)
    return value


def set_dtype(value: ir.Value, dtype: ir.DataType) -> None:
    """Changes the type of this value alone: copies of a graph share their type objects."""
    value.type = ir.TensorType(dtype)


def replace_input(node: ir.Node, old: ir.Value, new: ir.Value) -> None:
    """Makes every use of `old` by `node` one of `new`; `old` is dropped if it is a constant that
    nothing uses any more.
    """
    for index, value in enumerate(node.inputs):
        if value is old:
            node.replace_input_with(index, new)
    if old.is_initializer() and not old.uses() and old.graph is not None:
        del old.graph.initializers[str(old.name)]
