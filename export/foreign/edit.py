"""Edits of the foreign passes: nodes get a shape, a type and the module that they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from vit_edge.export.graph_edit import describe


def insert(
    before: ir.Node,
    operator: str,
    inputs: Sequence[ir.Value | None],
    shape: Sequence[int],
    attributes: Mapping[str, object] | None = None,
) -> ir.Value:
    """A new float32 node, of the module that `before` is of; its output."""
    graph = before.graph
    assert isinstance(graph, ir.Graph)
    node = ir.node(operator, inputs, attributes)  # type: ignore[arg-type]
    node.metadata_props.update(before.metadata_props)
    graph.insert_before(before, node)
    return describe(node.outputs[0], free_name(graph, operator), ir.Shape(shape), ir.DataType.FLOAT)


def insert_split(before: ir.Node, source: ir.Value, parts: int) -> Sequence[ir.Value]:
    """`source` split into equal parts along its last axis."""
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
    """Makes every use of `old` one of `new`, a graph output too, under its old name."""
    old.replace_all_uses_with(new, replace_graph_outputs=True)
