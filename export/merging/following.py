"""Operators that work on merged tokens as on all tokens, and which of their outputs are merged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir

from vit_edge.export.graph_edit import array, size_per_image

from .matching import sizes_of

EACH_NUMBER = (
    "Cast", "Identity", "Gelu", "Relu", "Sigmoid", "Tanh", "Erf", "Clip", "Neg", "Sqrt", "Exp",
    "HardSigmoid", "HardSwish", "QuantizeLinear", "DequantizeLinear",
)  # fmt: skip
_SEVERAL = ("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max")
_ON_AXIS = ("LayerNormalization", "Softmax", "LogSoftmax")


@dataclass(frozen=True)
class Tracked:
    """A tensor whose tokens were merged.

    Attributes:
        step: The last step that merged some.
        axes: The axes that hold tokens, in rising order.
        weighted: True for attention weights, in which a merged token counts once for each token of
            the image that it represents.
    """

    step: int
    axes: tuple[int, ...]
    weighted: bool = False


Followed = tuple["Tracked | None", ...]
"""An entry for each output of a node; None for one without merged tokens."""


def follow(
    node: ir.Node, known: Mapping[ir.Value, Tracked], tokens: int, special: int
) -> Followed | None:
    """Returns the outputs of a node that reads merged tokens; None if it needs all tokens of the
    image.

    Args:
        node: The node; its outputs still have the shapes of the graph without merging.
        known: Tensors with merged tokens.
        tokens: The number of tokens of an image.
        special: The number of these, the first ones, that are never merged.
    """
    reads = {v: known[v] for v in node.inputs if v is not None and v in known}
    if len({one.step for one in reads.values()}) != 1:
        return None
    one = _follow(node, reads, tokens, special)
    return None if one is None else one * len(node.outputs)


def _follow(
    node: ir.Node, reads: Mapping[ir.Value, Tracked], tokens: int, special: int
) -> Followed | None:
    first = node.inputs[0]
    assert first is not None
    if node.op_type == "MatMul":
        return _product(node, reads)
    if node.op_type in _SEVERAL:
        return _several(node, reads)
    if first not in reads:
        return None
    tracked = reads[first]
    rank = len(sizes_of(first))
    if node.op_type in EACH_NUMBER:
        return (tracked,) if _scales_fit(node, rank, tracked) else None
    if node.op_type in _ON_AXIS:
        axis = node.attributes.get_int("axis", -1) % rank
        # All tokens cannot be restored in attention weights. So those of rank 2, as a pooling has
        # them, are not followed: the scores before the Softmax get all tokens back instead.
        if node.op_type == "Softmax" and axis == tracked.axes[-1] == rank - 1 >= 2:
            return (Tracked(tracked.step, tracked.axes, weighted=True),)
        return None if axis in tracked.axes else (tracked,)
    if node.op_type == "Transpose":
        perm = list(node.attributes["perm"].as_ints())
        return (_moved(tracked, {axis: perm.index(axis) for axis in tracked.axes}),)
    if node.op_type == "Split":
        axis = node.attributes.get_int("axis", 0) % rank
        return None if axis in tracked.axes else (tracked,)
    if node.op_type == "Reshape":
        return _reshaped(node, tracked, tokens)
    if node.op_type == "Slice":
        return _sliced(node, tracked, special)
    if node.op_type == "Gather":
        return _gathered(node, tracked, special)
    return None


def _product(node: ir.Node, reads: Mapping[ir.Value, Tracked]) -> Followed | None:
    left, right = node.inputs
    assert left is not None
    assert right is not None
    one, other = reads.get(left), reads.get(right)
    last = len(sizes_of(node.outputs[0])) - 1
    if len(sizes_of(left)) != last + 1 or (other and len(sizes_of(right)) != last + 1):
        return None
    if one is not None and other is None:  # a Linear
        return None if last in one.axes else (Tracked(one.step, one.axes),)
    if other is None:
        return None
    if one is None:  # one token's queries, and all keys
        return (other,) if other.axes == (last,) else None
    if one.axes == (last - 1,) and other.axes == (last,):
        return (Tracked(one.step, (last - 1, last)),)
    if one.weighted and one.axes[-1] == last and other.axes == (last - 1,):
        rest = one.axes[:-1]
        return (Tracked(one.step, rest) if rest else None,)
    return None


def _several(node: ir.Node, reads: Mapping[ir.Value, Tracked]) -> Followed | None:
    rank = len(sizes_of(node.outputs[0]))
    axes = {one.axes for one in reads.values()}
    if len(axes) != 1 or any(len(sizes_of(value)) != rank for value in reads):
        return None
    for value in node.inputs:
        if value is None or value in reads:
            continue
        shape = [1] * (rank - len(sizes_of(value))) + sizes_of(value)
        if any(shape[axis] != 1 for axis in next(iter(axes))):
            return None
    return (next(iter(reads.values())),)


def _scales_fit(node: ir.Node, rank: int, tracked: Tracked) -> bool:
    """True unless a scale differs from token to token."""
    scale = node.inputs[1] if node.op_type.endswith("Linear") else None
    if scale is None or not prod(map(size_per_image, sizes_of(scale))) > 1:
        return True
    return node.attributes.get_int("axis", 1) % rank not in tracked.axes


def _moved(tracked: Tracked, to: Mapping[int, int]) -> Tracked:
    return Tracked(tracked.step, tuple(sorted(to[axis] for axis in tracked.axes)))


def _reshaped(node: ir.Node, tracked: Tracked, tokens: int) -> Followed | None:
    """Follows a Reshape to constant sizes that keeps the tokens on a separate axis."""
    source, target = node.inputs[:2]
    if source is None or target is None or not target.is_initializer():
        return None
    before, after = ([*map(size_per_image, sizes_of(v))] for v in (source, node.outputs[0]))
    for axis in tracked.axes:
        before[axis] = tokens
    to = {}
    for axis in tracked.axes:
        places = [
            i
            for i, size in enumerate(after)
            if size == tokens and prod(after[:i]) == prod(before[:axis])
        ]
        if not places:
            return None
        to[axis] = places[-1]
    return (_moved(tracked, to),)


def _sliced(node: ir.Node, tracked: Tracked, special: int) -> Followed | None:
    """Follows a Slice of other axes, or of special tokens, which keep their positions."""
    bounds = [None if v is None or not v.is_initializer() else array(v) for v in node.inputs[1:]]
    if any(bound is None for bound in bounds) or len(bounds) < 3:
        return None
    starts, ends, axes, *steps = (bound.tolist() for bound in bounds if bound is not None)
    rank = len(sizes_of(node.outputs[0]))
    chosen = {axis % rank: i for i, axis in enumerate(axes)}
    hit = [axis for axis in tracked.axes if axis in chosen]
    if not hit:
        return (tracked,)
    i = chosen[hit[0]]
    apart = 0 <= starts[i] < ends[i] <= special and (not steps or steps[0][i] == 1)
    return (None,) if apart and len(tracked.axes) == 1 else None


def _gathered(node: ir.Node, tracked: Tracked, special: int) -> Followed | None:
    """Follows a Gather along other axes, or of special tokens."""
    source, index = node.inputs
    if source is None or index is None or not index.is_initializer():
        return None
    axis = node.attributes.get_int("axis", 0) % len(sizes_of(source))
    places = np.atleast_1d(array(index))
    if axis in tracked.axes:
        apart = bool(((places >= 0) & (places < special)).all())
        return (None,) if apart and len(tracked.axes) == 1 else None
    grown = len(sizes_of(index)) - 1
    return (_moved(tracked, {a: a + grown if a > axis else a for a in tracked.axes}),)
