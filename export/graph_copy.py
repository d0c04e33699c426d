"""Copies a piece of one graph into another that has tensors of the same names."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from vit_edge.export.graph_edit import describe, register


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
        reads: Name of a tensor in the source graph -> what the copy reads in its place.
        target: The graph that the copy goes into, in front of `before`.
        before: A node of `target`.
        label: Added to the names of the copied nodes, tensors and constants.
        copied: What earlier calls copied of the piece, which is used again; it grows.

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
    """The nodes between, in an order in which they can run."""
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
