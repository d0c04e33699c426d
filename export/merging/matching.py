"""The nodes that merge the tokens of one block: bipartite soft matching, without a scatter.

Tokens are assigned to sides A and B in turn. Each one of side A is paired with the most similar one
of side B, and the most similar pairs become one token each: an average, weighted by how many tokens
of the image each represents. Class and register tokens are on no side. Of equally similar pairs the
earlier one is merged first.

Source: arXiv 2210.09461, section 3 and appendix D.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vit_edge.export.graph_edit import add_initializer, describe

FLOAT, INT64, BOOL = ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.BOOL
Size = int | ir.SymbolicDim


class Writer:
    """Inserts nodes before `before`, at the end if None; their names begin with `prefix`."""

    def __init__(self, graph: ir.Graph, before: ir.Node | None, prefix: str) -> None:
        self._graph, self._before, self._prefix = graph, before, prefix
        self._number = 0

    def write(
        self,
        operator: str,
        inputs: Sequence[ir.Value],
        shape: Sequence[Size],
        dtype: ir.DataType = FLOAT,
        **attributes: object,
    ) -> ir.Value:
        """Adds a node and returns its output."""
        return self.write_all(operator, inputs, [(shape, dtype)], **attributes)[0]

    def write_all(
        self,
        operator: str,
        inputs: Sequence[ir.Value],
        outputs: Sequence[tuple[Sequence[Size], ir.DataType]],
        **attributes: object,
    ) -> Sequence[ir.Value]:
        """Adds a node and returns its outputs, which get these shapes and types."""
        self._number += 1
        name = f"{self._prefix}/{operator}_{self._number}"
        node = ir.node(operator, inputs, attributes, num_outputs=len(outputs), name=name)  # type: ignore[arg-type]
        if self._before is None:
            self._graph.append(node)
        else:
            self._graph.insert_before(self._before, node)
        for index, (value, (shape, dtype)) in enumerate(zip(node.outputs, outputs, strict=True)):
            label = name if len(outputs) == 1 else f"{name}.{index}"
            describe(value, label, ir.Shape(shape), dtype)
        return node.outputs

    def constant(self, stem: str, data: NDArray[np.generic]) -> ir.Value:
        """Adds a constant to the graph."""
        return add_initializer(self._graph, f"{self._prefix}/{stem}", data)

    def integers(self, stem: str, *numbers: int) -> ir.Value:
        """Adds a constant int64 vector."""
        return self.constant(stem, np.array(numbers, np.int64))

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Returns `value` in type `dtype`, with a Cast if it has another."""
        if value.dtype == dtype:
            return value
        return self.write("Cast", [value], list(value.shape or ()), dtype, to=dtype)


def sizes_of(value: ir.Value) -> list[Size]:
    """The shape of a value, which must have one, as a new list."""
    assert value.shape is not None
    return list(value.shape)


@dataclass(frozen=True)
class Sides:
    """Positions of the tokens of each side; the first `special` of all `tokens` are on none."""

    tokens: int
    special: int

    @property
    def a(self) -> range:
        return range(self.special + self.special % 2, self.tokens, 2)

    @property
    def b(self) -> range:
        return range(self.special + 1 - self.special % 2, self.tokens, 2)

    @property
    def most(self) -> int:
        """The most tokens that can be merged: at least one of side A stays."""
        return max(0, len(self.a) - 1) if self.b else 0


@dataclass(frozen=True)
class Keys:
    """The keys of an attention, with 4 axes, and those that hold heads, tokens and channels."""

    value: ir.Value
    heads: int
    tokens: int
    channels: int


@dataclass(frozen=True)
class Merged:
    """Outcome of a step.

    Attributes:
        stream: `[B, N - merge, C]`: the special tokens, those of side A that are left, side B.
        sizes: float32 `[B, N - merge, 1]`, how many tokens of the image each one represents.
        places: int64 `[B, N, 1]`, the position of each token in `stream`.
    """

    stream: ir.Value
    sizes: ir.Value
    places: ir.Value


def similarity(w: Writer, keys: Keys, sides: Sides) -> ir.Value:
    """float32 `[B, side A, side B]`: the cosine of the keys' means over heads.

    Computed in fp32, because squares of keys overflow in fp16.
    """
    batch, width = (sizes_of(keys.value)[axis] for axis in (0, keys.channels))
    wide, turned = w.cast(keys.value, FLOAT), keys.tokens > keys.channels
    shape = [batch, width, sides.tokens] if turned else [batch, sides.tokens, width]
    mean = w.write("ReduceMean", [wide, w.integers("heads", keys.heads)], shape, keepdims=0)
    if turned:
        shape = [batch, sides.tokens, width]
        mean = w.write("Transpose", [mean], shape, perm=[0, 2, 1])
    one = [batch, sides.tokens, 1]
    norm = w.write("ReduceL2", [mean, w.integers("channels", 2)], one, keepdims=1)
    norm = w.write("Max", [norm, w.constant("least", np.array(1e-12, np.float32))], one)
    unit = w.write("Div", [mean, norm], shape)
    a, b = (take(w, unit, side) for side in (sides.a, sides.b))
    b = w.write("Transpose", [b], [batch, width, len(sides.b)], perm=[0, 2, 1])
    return w.write("MatMul", [a, b], [batch, len(sides.a), len(sides.b)])


def merge_step(
    w: Writer, stream: ir.Value, sizes: ir.Value | None, scores: ir.Value, sides: Sides, merge: int
) -> Merged:
    """Keeps the tokens of side A that are left and adds the merged ones to side B.

    Indices stay integers, which no engine rounds. Sizes are divided into shares before they are
    multiplied with tokens, so that an average cannot overflow where its tokens do not.

    Args:
        w: Writes the nodes.
        stream: `[B, N, C]`.
        sizes: float32 `[B, N, 1]`; None if each token represents only itself.
        scores: float32 `[B, side A, side B]`.
        sides: The sides of the N tokens.
        merge: How many to merge, 1 to `sides.most`.
    """
    batch, tokens, width = sizes_of(stream)
    assert isinstance(tokens, int)
    kind = stream.dtype
    assert kind is not None
    count, others, left = len(sides.a), len(sides.b), len(sides.a) - merge
    partner, merging, kept = _choose(w, scores, sides, merge)
    side = take(w, stream, sides.a)
    go = w.write("GatherND", [side, merging], [batch, merge, width], kind, batch_dims=1)
    stay = w.write("GatherND", [side, kept], [batch, left, width], kind, batch_dims=1)
    to = w.write("GatherND", [partner, merging], [batch, merge, 1], INT64, batch_dims=1)
    to = w.write("Transpose", [to], [batch, 1, merge], INT64, perm=[0, 2, 1])
    numbers = w.constant("b", np.arange(others)[None, :, None])
    matrix, column = [batch, others, merge], [batch, others, 1]
    weights = w.cast(w.write("Equal", [numbers, to], matrix, BOOL), FLOAT)
    own = one = w.constant("one", np.array(1, np.float32))
    if sizes is not None:
        own, of_a = (take(w, sizes, places) for places in (sides.b, sides.a))
        those = w.write("GatherND", [of_a, merging], [batch, merge, 1], batch_dims=1)
        those = w.write("Transpose", [those], [batch, 1, merge], perm=[0, 2, 1])
        weights = w.write("Mul", [weights, those], matrix)
    added = w.write("ReduceSum", [weights, w.integers("merged", 2)], column, keepdims=1)
    after = w.write("Add", [added, own], column)
    shares = w.cast(w.write("Div", [weights, after], matrix), kind)
    share = w.cast(w.write("Div", [own, after], column), kind)
    whole = [batch, others, width]
    mine = w.write("Mul", [take(w, stream, sides.b), share], whole, kind)
    new = w.write("Add", [mine, w.write("MatMul", [shares, go], whole, kind)], whole, kind)
    parts, parts_of_sizes = [stay, new], [after]
    if sides.special:
        parts.insert(0, take(w, stream, range(sides.special)))
    merged = w.write("Concat", parts, [batch, tokens - merge, width], kind, axis=1)
    shape = [batch, tokens - merge, 1]
    if sizes is None:
        pads = w.integers("pads", 0, sides.special + left, 0, 0, 0, 0)
        grown = w.write("Pad", [after, pads, one], shape)
    else:
        parts_of_sizes.insert(0, w.write("GatherND", [of_a, kept], [batch, left, 1], batch_dims=1))
        if sides.special:
            parts_of_sizes.insert(0, take(w, sizes, range(sides.special)))
        grown = w.write("Concat", parts_of_sizes, shape, axis=1)
    places = _places(w, partner, merging, kept, sides)
    assert count == merge + left
    return Merged(merged, grown, places)


def _choose(
    w: Writer, scores: ir.Value, sides: Sides, merge: int
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Returns the partner on side B of each token of side A, the tokens of side A to merge, most
    similar first, and those to keep, in their order; int64 `[B, n, 1]`, positions on their side.
    """
    batch, count, left = sizes_of(scores)[0], len(sides.a), len(sides.a) - merge
    shape = [batch, count, 1]
    best, partner = w.write_all(
        "TopK", [scores, w.integers("best", 1)], [(shape, FLOAT), (shape, INT64)]
    )
    ranked = w.write_all(
        "TopK", [best, w.integers("all", count)], [(shape, FLOAT), (shape, INT64)], axis=1
    )[1]
    shapes = [([batch, number, 1], INT64) for number in (merge, left)]
    merging, kept = w.write_all("Split", [ranked, w.integers("parts", merge, left)], shapes, axis=1)
    return partner, merging, _sorted(w, kept)[0]


def _places(
    w: Writer, partner: ir.Value, merging: ir.Value, kept: ir.Value, sides: Sides
) -> ir.Value:
    """Position of each token after the step, int64 `[B, N, 1]`."""
    batch, left, _ = sizes_of(kept)
    assert isinstance(left, int)
    count = len(sides.a)
    column, whole = [batch, count, 1], [batch, sides.tokens, 1]
    ranked = w.write("Concat", [kept, merging], column, INT64, axis=1)
    rank = _sorted(w, ranked)[1]
    stays = w.write("Less", [rank, w.integers("left", left)], column, BOOL)
    stay = w.write("Add", [rank, w.integers("special", sides.special)], column, INT64)
    go = w.write("Add", [partner, w.integers("side", sides.special + left)], column, INT64)
    place = w.write("Where", [stays, stay, go], column, INT64)
    source, fixed = np.zeros(sides.tokens, np.int64), np.arange(sides.tokens)
    source[sides.a] = np.arange(count)
    fixed[sides.b] = sides.special + left + np.arange(len(sides.b))
    is_a = np.isin(np.arange(sides.tokens), sides.a)
    spread = w.write("Gather", [place, w.constant("source", source)], whole, INT64, axis=1)
    constants = [w.constant(n, v[None, :, None]) for n, v in (("a", is_a), ("fixed", fixed))]
    return w.write("Where", [constants[0], spread, constants[1]], whole, INT64)


def _sorted(w: Writer, values: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Integers `[B, n, 1]` in rising order, and the former position of each."""
    shape = sizes_of(values)
    assert isinstance(shape[1], int)
    first, second = w.write_all(
        "TopK", [values, w.integers("n", shape[1])], [(shape, INT64)] * 2, axis=1, largest=0
    )
    return first, second


def take(w: Writer, value: ir.Value, places: range) -> ir.Value:
    """The tokens at these positions on axis 1."""
    shape = sizes_of(value)
    shape[1] = len(places)
    bounds = {"start": places.start, "end": places.stop, "axis": 1, "step": places.step}
    constants = [w.integers(name, number) for name, number in bounds.items()]
    assert value.dtype is not None
    return w.write("Slice", [value, *constants], shape, value.dtype)
