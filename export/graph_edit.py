"""Edits of a graph: new nodes and constants with shapes and types, and copies between graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


def array(value: ir.Value) -> NDArray[np.float32]:
    """The data of an initializer."""
    assert value.const_value is not None
    return value.const_value.numpy()


def add_initializer(graph: ir.Graph, name: str, data: NDArray[np.generic]) -> ir.Value:
    """Adds a constant; a number is appended to its name if the graph already has that name."""
    return register(graph, ir.val(name, const_value=ir.tensor(data, name=name)))


def register(graph: ir.Graph, constant: ir.Value) -> ir.Value:
    """Adds and returns a constant, with a number appended if the graph already has its name."""
    stem, number = constant.name, 1
    while constant.name in graph.initializers:
        number += 1
        constant.name = f"{stem}_{number}"
    graph.register_initializer(constant)
    return constant


def rows_per_image(value: ir.Value) -> int:
    """Number of vectors along the last axis of `value` for one image. A first axis of `4*batch`
    holds four windows of each image.
    """
    return prod(size_per_image(size) for size in (value.shape or ())[:-1])


def size_per_image(size: int | ir.SymbolicDim) -> int:
    """A dimension's size for one image: 4 for `4*batch`, 1 for `batch`."""
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
    """Makes `node` read `new` wherever it reads `old`, which is removed if it is a constant that
    nothing uses any more.
    """
    for index, value in enumerate(node.inputs):
        if value is old:
            node.replace_input_with(index, new)
    if old.is_initializer() and not old.uses() and old.graph is not None:
        del old.graph.initializers[str(old.name)]


def insert(
    before: ir.Node,
    operator: str,
    inputs: Sequence[ir.Value | None],
    shape: Sequence[int],
    attributes: Mapping[str, object] | None = None,
) -> ir.Value:
    """Inserts a float32 node of the same module in front of `before`, and returns its output."""
    graph = before.graph
    assert isinstance(graph, ir.Graph)
    node = ir.node(operator, inputs, attributes)  # type: ignore[arg-type]
    node.metadata_props.update(before.metadata_props)
    graph.insert_before(before, node)
    return describe(node.outputs[0], free_name(graph, operator), ir.Shape(shape), ir.DataType.FLOAT)


def insert_split(before: ir.Node, source: ir.Value, parts: int) -> Sequence[ir.Value]:
    """Inserts a Split of `source` into equal parts along its last axis, and returns these."""
    graph = before.graph
    assert isinstance(graph, ir.Graph)
    shape = list(sizes(source))
    axis = len(shape) - 1
    node = ir.node("Split", [source], {"axis": axis, "num_outputs": parts}, num_outputs=parts)
    node.metadata_props.update(before.metadata_props)
    graph.insert_before(before, node)
    part = ir.Shape([*shape[:-1], shape[-1] // parts])
    for value in node.outputs:
        describe(value, free_name(graph, "Split"), part, ir.DataType.FLOAT)
    return node.outputs


def free_name(graph: ir.Graph, stem: str) -> str:
    """A name that no value of the graph has; `NameAfterModules` gives it a better one."""
    number = int(graph.metadata_props.get("inserted", "0")) + 1
    graph.metadata_props["inserted"] = str(number)
    return f"vit_edge:{stem}_{number}"


def sizes(value: ir.Value | None) -> tuple[int, ...]:
    """The static shape of a value of a frozen graph; () where it is not known."""
    if value is None or value.shape is None or not value.shape.is_static():
        return ()
    return value.shape.numpy()


def rewire(old: ir.Value, new: ir.Value) -> None:
    """Replaces every use of `old` with `new`, as a graph output too."""
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def find_value(graph: ir.Graph, name: str) -> ir.Value:
    """The tensor of that name that a node of the graph computes."""
    return next(v for node in graph for v in node.outputs if v.name == name)


def copy_between(
    write: ir.Value,
    reads: Mapping[str, ir.Value],
    target: ir.Graph,
    before: ir.Node,
    label: str,
    copied: dict[ir.Value, ir.Value] | None = None,
) -> ir.Value:
    """Copies the nodes that compute `write`, up to the tensors named in `reads`, into `target`.

    Args:
        write: A tensor of the source graph.
        reads: Name of a tensor in the source graph -> the tensor that the copy reads instead.
        target: The graph that the copy goes into, in front of `before`.
        before: A node of `target`.
        label: Added to the names of the copied nodes, tensors and constants.
        copied: Source tensor -> its copy, of earlier calls; reused and extended.

    Returns:
        The copy of `write`.
    """
    copied = {} if copied is None else copied
    for node in _piece(write, reads):
        if node.outputs[0] in copied:
            continue
        inputs = [_input(value, reads, copied, target, label) for value in node.inputs]
        attributes = list(node.attributes.values())
        copy = ir.Node(
            node.domain,
            node.op_type,
            inputs,
            attributes,
            num_outputs=len(node.outputs),
            name=f"{node.name}{label}",
        )
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            if old.dtype is not None:
                describe(new, f"{old.name}{label}", old.shape, old.dtype)
            copied[old] = new
        target.insert_before(before, copy)
    return copied[write]


def _piece(write: ir.Value, reads: Mapping[str, ir.Value]) -> list[ir.Node]:
    """The nodes that compute `write` from `reads`, in an order in which they can run."""
    done: dict[ir.Node, None] = {}

    def visit(value: ir.Value | None) -> None:
        node = value.producer() if value is not None and value.name not in reads else None
        if node is not None and node not in done:
            for read in node.inputs:
                visit(read)
            done[node] = None

    visit(write)
    return list(done)


def _input(
    value: ir.Value | None,
    reads: Mapping[str, ir.Value],
    copied: dict[ir.Value, ir.Value],
    target: ir.Graph,
    label: str,
) -> ir.Value | None:
    if value is None:
        return None
    if (replacement := reads.get(str(value.name))) is not None:
        return replacement
    if value not in copied:
        assert value.is_initializer()
        constant = ir.Value(
            name=f"{value.name}{label}",
            shape=value.shape,
            type=value.type,
            const_value=value.const_value,
        )
        copied[value] = register(target, constant)
    return copied[value]
