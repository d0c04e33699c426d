"""Merges tokens in a graph: inserts the steps, and adapts the nodes behind them to fewer tokens.

A tensor whose tokens were merged keeps its name. Attention and nodes that work on each token alone
compute on fewer tokens; any other node gets all tokens of the image back, each a copy of the token
that it was merged into, so that their mean is the mean weighted by sizes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from onnx.shape_inference import InferenceError, infer_shapes
from onnx_ir.passes.common import RemoveUnusedNodesPass

from vit_edge.calibration.onnx_file import to_bytes
from vit_edge.export.graph_edit import add_initializer, array, replace_input
from vit_edge.runtime.errors import first_line

from .blocks import Block, CannotMergeError, find_structure
from .following import Tracked, follow
from .matching import INT64, Merged, Sides, Writer, merge_step, similarity, sizes_of


def merge_tokens(model: ir.Model, schedule: Sequence[int]) -> ir.Model:
    """Returns a copy of `model` that merges `schedule[i]` tokens in its i-th block; `model` itself
    if all are 0.

    Args:
        model: A lowered graph, with its tensors' shapes.
        schedule: Tokens to merge in each block; missing ones are 0.

    Raises:
        CannotMergeError: if its tokens cannot be merged, or not that many.
    """
    if not any(schedule):
        return model
    copy = model.clone()
    _Rewriter(copy.graph).run(schedule)
    RemoveUnusedNodesPass()(copy)
    _require_valid(copy)
    return copy


def _require_valid(model: ir.Model) -> None:
    """Raises CannotMergeError if shapes do not fit or two tensors have one name: a graph of an
    unknown kind must not stop the export of the precision that is merged.
    """
    names = Counter(value.name for node in model.graph for value in node.outputs)
    twice = [name for name, times in names.items() if times > 1 and name]
    try:
        if twice:
            raise ValueError(f"{twice[0]} is computed twice")
        infer_shapes(to_bytes(model).graph, strict_mode=True)
    except (InferenceError, ValueError) as error:
        raise CannotMergeError(
            f"the merged graph would not be valid ({first_line(error)}): report this model, please"
        ) from None


@dataclass
class _Rewriter:
    """Walks through a graph once, from its input to its outputs.

    Attributes:
        graph: Changed in place.
        special: Number of class and register tokens.
        counts: Number of tokens before the first step and after each step.
        steps: The steps so far.
        known: Tensors with merged tokens.
        logarithms: Logarithms of the sizes, by step, and by type and rank of the scores.
        maps: Position of each token of the image after a step, int64 `[B, N, 1]`, by step.
        whole: Copies with all tokens restored, by the tensor with merged tokens.
    """

    graph: ir.Graph
    special: int = 0
    counts: list[int] = field(default_factory=list)
    steps: list[Merged] = field(default_factory=list)
    known: dict[ir.Value, Tracked] = field(default_factory=dict)
    logarithms: dict[tuple[int, ir.DataType, int], ir.Value] = field(default_factory=dict)
    maps: dict[int, ir.Value] = field(default_factory=dict)
    whole: dict[ir.Value, ir.Value] = field(default_factory=dict)

    def run(self, schedule: Sequence[int]) -> None:
        """Merges `schedule[i]` tokens in block i. Raises CannotMergeError."""
        structure = find_structure(self.graph)
        self.special, self.counts = structure.special, [structure.tokens]
        if len(schedule) > len(structure.blocks):
            raise CannotMergeError(
                f"tokens are given for {len(schedule)} blocks, the model has "
                f"{len(structure.blocks)}"
            )
        streams = {
            block.stream: (block, count)
            for block, count in zip(structure.blocks, schedule, strict=False)
            if count
        }
        nodes = list(self.graph)
        for node, following in zip(nodes, [*nodes[1:], None], strict=True):
            self._visit(node)
            for value in node.outputs:
                if value in streams:
                    self._merge(following, *streams[value])
        for index, output in enumerate(self.graph.outputs):
            if output in self.known:
                name = str(output.name)
                given_back = self._give_back(output, None)
                output.name, given_back.name = f"{name}/merged", name
                self.graph.outputs[index] = given_back

    def _visit(self, node: ir.Node) -> None:
        """Adapts a node that reads merged tokens to them, or restores all tokens for it."""
        reads = [value for value in node.inputs if value is not None and value in self.known]
        if not reads:
            return
        followed = follow(node, self.known, self.counts[0], self.special)
        if followed is None:
            for value in dict.fromkeys(reads):
                replace_input(node, value, self._give_back(value, node))
            return
        for value, tracked in zip(node.outputs, followed, strict=True):
            if tracked is None:
                continue
            shape = sizes_of(value)
            for axis in tracked.axes:
                shape[axis] = self.counts[tracked.step]
            value.shape = ir.Shape(shape)
            self.known[value] = tracked
            if node.op_type == "Reshape":
                self._resize(node, tracked)
            elif tracked.weighted and node.op_type == "Softmax":
                self._weigh(node, tracked)

    def _resize(self, node: ir.Node, tracked: Tracked) -> None:
        """Gives a Reshape its new sizes."""
        target = node.inputs[1]
        assert target is not None
        numbers = array(target).astype(np.int64).copy()
        for axis in tracked.axes:
            if numbers[axis] > 0:
                numbers[axis] = self.counts[tracked.step]
        new = add_initializer(self.graph, f"{node.name}/sizes", numbers)
        replace_input(node, target, new)

    def _weigh(self, softmax: ir.Node, tracked: Tracked) -> None:
        """Adds the logarithm of the sizes to the scores: a key counts once per token in it."""
        scores = softmax.inputs[0]
        assert scores is not None
        assert scores.dtype is not None
        rank, sizes = len(sizes_of(scores)), self.steps[tracked.step - 1].sizes
        batch, count, _ = sizes_of(sizes)
        if sizes_of(scores)[0] != batch:
            raise CannotMergeError(f"{softmax.name} has no axis of its own for the images")
        key = (tracked.step, scores.dtype, rank)
        w = Writer(self.graph, softmax, f"{softmax.name}/sizes")
        if key not in self.logarithms:
            value = w.write("Log", [sizes], sizes_of(sizes))
            value = w.write("Transpose", [value], [batch, 1, count], perm=[0, 2, 1])
            heads = range(1, rank - 2)
            if heads:
                shape = [batch, *(1 for _ in heads), 1, count]
                value = w.write("Unsqueeze", [value, w.integers("heads", *heads)], shape)
            self.logarithms[key] = w.cast(value, scores.dtype)
        inputs = [scores, self.logarithms[key]]
        softmax.replace_input_with(0, w.write("Add", inputs, sizes_of(scores), scores.dtype))

    def _merge(self, before: ir.Node | None, block: Block, count: int) -> None:
        """Inserts a step behind a block's attention."""
        sides = Sides(self.counts[-1], self.special)
        if not block.merges or not 0 < count <= sides.most:
            most = sides.most if block.merges else 0
            raise CannotMergeError(
                f"{block.name} can merge at most {most} of {sides.tokens} tokens, not {count}"
            )
        stream, readers = block.stream, list(block.stream.uses())
        for value in (stream, block.keys.value) if self.steps else ():
            tracked = self.known.get(value)
            if tracked is None or tracked.step != len(self.steps):
                raise CannotMergeError(
                    f"{block.name} computes with all {self.counts[0]} tokens again, whatever was "
                    "merged before: tokens can be merged in one block alone"
                )
        module = block.name.rpartition(".")[0] or block.name
        # Several blocks share one module if attention has no module of its own, or if weights are
        # shared: the number keeps their names apart.
        w = Writer(self.graph, before, f"{module}.merge{len(self.steps) or ''}")
        sizes = self.steps[-1].sizes if self.steps else None
        merged = merge_step(w, stream, sizes, similarity(w, block.keys, sides), sides, count)
        for node, index in readers:
            node.replace_input_with(index, merged.stream)
        self.steps.append(merged)
        self.counts.append(self.counts[-1] - count)
        self.known[merged.stream] = Tracked(len(self.steps), (1,))

    def _give_back(self, value: ir.Value, before: ir.Node | None) -> ir.Value:
        """Returns `value` with all tokens of the image."""
        if value not in self.whole:
            tracked, shape = self.known[value], sizes_of(value)
            if tracked.axes != (1,) or value.dtype is None:
                reader = "the output" if before is None else f"{before.name} ({before.op_type})"
                raise CannotMergeError(f"{reader} needs tokens that are merged in {value.name}")
            w = Writer(self.graph, before, f"{value.name}/unmerged")
            shape[1] = self.counts[0]
            places = self._map(tracked.step, w)
            self.whole[value] = w.write(
                "GatherND", [value, places], shape, value.dtype, batch_dims=1
            )
        return self.whole[value]

    def _map(self, step: int, w: Writer) -> ir.Value:
        if step not in self.maps:
            own = w.cast(self.steps[step - 1].places, INT64)
            if step > 1:
                shape = [sizes_of(own)[0], self.counts[0], 1]
                own = w.write("GatherND", [own, self._map(step - 1, w)], shape, INT64, batch_dims=1)
            self.maps[step] = own
        return self.maps[step]
