"""Computes the last block for the class token only, because the head reads nothing else.

Queries, attention rows, projection and MLP of the last block act on each token alone, so all tokens
except the first are dropped before them; keys and values still see every token. This is exact, and
saves three quarters of one of a ViT-B's 12 blocks.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from vit_edge.export.graph_edit import add_initializer, describe, replace_input

_ELEMENTWISE = ("Gelu", "Sigmoid", "Tanh")
_ON_LAST_AXIS = ("LayerNormalization", "Softmax")

Needs = dict[ir.Value, int]
"""The axis of each value along which only index 0 is needed."""


class KeepOnlyClassToken(ir.passes.InPlacePass):
    """Moves the head's `Gather(index 0, axis 1)` towards the input as far as operators allow."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        needs = _find_needs(model.graph)
        slices: dict[tuple[ir.Value, int], ir.Value] = {}
        for node in [n for n in model.graph if n.outputs[0] in needs]:
            for value, axis in (_input_axes(node, needs) or {}).items():
                if value not in needs:
                    if (value, axis) not in slices:
                        slices[value, axis] = _slice(model.graph, value, axis, before=node)
                    replace_input(node, value, slices[value, axis])
            _narrow(model.graph, node, needs[node.outputs[0]])
        return ir.passes.PassResult(model, modified=bool(needs))


def _find_needs(graph: ir.Graph) -> Needs:
    """Finds the values needed at index 0 only, by a walk from the outputs to the inputs.

    These are values that all uses read at index 0 only and whose node can compute just that.
    """
    needs: Needs = {}
    requests: dict[ir.Value, list[int]] = {}
    for node in reversed(graph):
        axes = {_requested_axis(value, requests) for value in node.outputs}
        axis = axes.pop() if len(axes) == 1 else None
        if axis is not None:
            needs.update(dict.fromkeys(node.outputs, axis))
        inputs = _input_axes(node, needs)
        if inputs is None:
            for value in node.outputs:
                needs.pop(value, None)
        for source, axis in (inputs or {}).items():
            # A value that a node uses twice counts once for each use.
            requests.setdefault(source, []).extend([axis] * sum(v is source for v in node.inputs))
    return needs


def _requested_axis(value: ir.Value, requests: dict[ir.Value, list[int]]) -> int | None:
    """The axis along which every use of `value` needs index 0 only, or None."""
    axes = requests.get(value, [])
    if len(axes) != len(value.uses()) or len(set(axes)) != 1 or value.is_graph_output():
        return None
    return axes[0]


def _input_axes(node: ir.Node, needs: Needs) -> dict[ir.Value, int] | None:
    """The inputs of `node` that are needed at index 0 only, and their axes, given the needs of its
    outputs; None if it needs all inputs whole.
    """
    if _gathers_class_token(node):
        return {_first(node): 1}
    if any(value not in needs for value in node.outputs):
        return None
    axis, rank = needs[node.outputs[0]], len(node.outputs[0].shape or ())
    inputs = [v for v in node.inputs if v is not None]
    if node.op_type in _ELEMENTWISE or (node.op_type in _ON_LAST_AXIS and axis != rank - 1):
        return {inputs[0]: axis}
    if node.op_type == "Split" and node.attributes.get_int("axis", 0) % rank != axis:
        return {inputs[0]: axis}
    if node.op_type in ("Add", "Mul"):
        return _elementwise(inputs, axis, rank)
    if (
        node.op_type == "MatMul"
        and axis < rank - 1
        and (axis == rank - 2 or inputs[1].is_initializer())
    ):
        return {inputs[0]: axis}
    if node.op_type == "Transpose":
        return {inputs[0]: int(node.attributes["perm"].as_ints()[axis])}
    if (
        node.op_type == "Reshape"
        and _keeps(inputs[0], node.outputs[0], axis)
        and inputs[1].is_initializer()
    ):
        return {inputs[0]: axis}
    return None


def _gathers_class_token(node: ir.Node) -> bool:
    if node.op_type != "Gather" or node.attributes.get_int("axis", 0) != 1:
        return False
    index = ir.convenience.get_const_tensor(node.inputs[1]) if node.inputs[1] is not None else None
    return index is not None and index.size == 1 and int(index.numpy().item()) == 0


def _elementwise(inputs: list[ir.Value], axis: int, rank: int) -> dict[ir.Value, int] | None:
    """The same for Add and Mul. Constants must be the same for every token: of lower rank, or of
    size 1 there.
    """
    axes = {}
    for value in inputs:
        shape = value.shape or ir.Shape([])
        if not value.is_initializer():
            if len(shape) != rank:
                return None
            axes[value] = axis
        elif len(shape) >= rank - axis and shape[axis - rank] != 1:
            return None
    return axes


def _keeps(before: ir.Value, after: ir.Value, axis: int) -> bool:
    """True if a Reshape does not change the axes up to and including `axis`."""
    head = [
        shape[: axis + 1] if (shape := value.shape) is not None else None
        for value in (before, after)
    ]
    return head[0] is not None and len(head[0]) == axis + 1 and head[0] == head[1]


def _slice(graph: ir.Graph, value: ir.Value, axis: int, before: ir.Node) -> ir.Value:
    """Index 0 of `value` along `axis`, dimension kept."""
    bounds = [
        _constant(graph, f"{value.name}/{name}", [n])
        for name, n in (("start", 0), ("end", 1), ("axis", axis))
    ]
    name = f"{value.name}/class_token"
    node = ir.node("Slice", [value, *bounds], name=name)
    graph.insert_before(before, node)
    assert value.dtype is not None
    return describe(node.outputs[0], name, _with_one(value, axis), value.dtype)


def _narrow(graph: ir.Graph, node: ir.Node, axis: int) -> None:
    if node.op_type == "Reshape" and (old := node.inputs[1]) is not None:
        sizes = ir.convenience.get_const_tensor(old)
        assert sizes is not None
        shape = sizes.numpy().tolist()
        node.replace_input_with(
            1, _constant(graph, f"{node.name}/shape", [*shape[:axis], 1, *shape[axis + 1 :]])
        )
    for value in node.outputs:
        value.shape = _with_one(value, axis)


def _with_one(value: ir.Value, axis: int) -> ir.Shape:
    assert value.shape is not None
    return ir.Shape([1 if i == axis else size for i, size in enumerate(value.shape)])


def _constant(graph: ir.Graph, name: str, numbers: list[int]) -> ir.Value:
    return add_initializer(graph, name, np.array(numbers, dtype=np.int64))


def _first(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value
