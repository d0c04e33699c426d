"""One graph that holds a lowering, and the fp32 graph cut into pieces at the residual stream.

Each piece reads the lowering's tensor at the cut before it ("teacher forcing"), so that comparing
the results of both tells the error of that segment alone, whatever came in. The sums that
statistics need are computed in the graph: instead of a ViT-B's activations only numbers for each
channel leave it, and memory stays that of one batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from vit_edge.export.graph_edit import add_initializer, array, describe
from vit_edge.export.passes.linears import Linear
from vit_edge.export.quantise.grid import GRIDS

from .probes import OUTPUT, Probe

PREFIX = "fp32:"


@dataclass(frozen=True)
class JoinedGraph:
    """The joined graph.

    Its outputs: the lowering's; for each probe float32 `[6, channels]`, sums over images and
    tokens of the expected branch, its square, the error, its square, their product, and the square
    of the stream; for each quantiser float32 `[2]`, its largest input relative to the end
    of its grid, and the share of inputs that it clips.

    Attributes:
        probes: Those that the lowering has, except those with a reader that it joined to another.
        quantisers: The tensors that quantisers read, as the lowering names them.
    """

    model: ir.Model
    probes: tuple[Probe, ...]
    quantisers: tuple[str, ...]


def join_teacher_forced(lowered: ir.Model, fp32: ir.Model, probes: Sequence[Probe]) -> JoinedGraph:
    """Joins both graphs. `lowered` computes in fp32 (see `export.measure`) and can be cut."""
    model = lowered.clone()
    graph = model.graph
    quantisers = [node for node in graph if _has_range(node)]
    theirs = {str(v.name): v for node in graph for v in node.outputs}
    weights = {str(n.name): n.inputs[1] for n in graph if n.op_type == "MatMul"}
    ours = _add_pieces(graph, fp32)
    cuts = {probe.name: seen_by_users(theirs, probe.name) for probe in probes if probe.cut}
    for name, value in cuts.items():
        ours[name].replace_all_uses_with(value)
    sums = _Sums(graph)
    present = tuple(
        p
        for p in probes
        if (p.kind == OUTPUT or p.name in theirs)
        and (p.reader is None or str(p.reader.node.name) in weights)
    )
    for probe in present:
        seen = graph.outputs[0] if probe.kind == OUTPUT else cuts.get(probe.name)
        stream = None
        if probe.incoming is not None:
            incoming = str(probe.incoming.name)
            stream = cuts.get(incoming, ours[incoming])
        seen = seen or theirs[probe.name]
        if probe.reader is not None:
            seen = sums.unscaled(seen, probe.reader, weights[str(probe.reader.node.name)])
        sums.add(probe, seen, ours[probe.name], stream)
    for node in quantisers:
        _add_range(graph, node)
    return JoinedGraph(
        model, present, tuple(str(n.inputs[0] and n.inputs[0].name) for n in quantisers)
    )


def seen_by_users(values: Mapping[str, ir.Value], name: str) -> ir.Value:
    """The tensor that the users of `name` read: the rounded one if 16 bits are simulated."""
    return values.get(f"{name}@widened", values[name])


def _add_pieces(graph: ir.Graph, fp32: ir.Model) -> dict[str, ir.Value]:
    """Moves a copy of the fp32 graph into `graph`, every name prefixed, reading the same images.

    Returns its tensors by their names in the fp32 graph.
    """
    pieces = fp32.clone().graph
    pieces.inputs[0].replace_all_uses_with(graph.inputs[0])
    pieces.outputs.clear()
    for name in list(pieces.initializers):
        value = pieces.initializers.pop(name)
        value.name = f"{PREFIX}{name}"
        graph.register_initializer(value)
    tensors = {}
    for node in list(pieces):
        pieces.remove(node)
        node.name = f"{PREFIX}{node.name}"
        for value in node.outputs:
            tensors[str(value.name)] = value
            value.name = f"{PREFIX}{value.name}"
        graph.append(node)
    return tensors


class _Sums:
    """Appends the sums of probes to a graph, as outputs."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._count = 0
        self._first = add_initializer(graph, "watch/first", np.array([0], np.int64))

    def add(
        self, probe: Probe, seen: ir.Value, expected: ir.Value, stream: ir.Value | None
    ) -> None:
        """Adds the sums of a probe; `stream` is what its branch was added to, if it is one."""
        shape = probe.value.shape or ir.Shape([])
        axes = np.delete(np.arange(len(shape), dtype=np.int64), probe.axis)
        over = add_initializer(self._graph, f"watch/{self._count}/axes", axes)
        error = self._node("Sub", seen, expected)
        branch = expected if stream is None else self._node("Sub", expected, stream)
        cuts = expected if stream is None else stream
        parts = [
            self._node("ReduceSum", branch, over),
            self._products(branch, branch, over),
            self._node("ReduceSum", error, over),
            self._products(error, error, over),
            self._products(branch, error, over),
            self._products(cuts, cuts, over),
        ]
        rows = ir.node("Concat", [self._as_row(part) for part in parts], {"axis": 0})
        self._graph.append(rows)
        name = f"watch:{self._count}"
        result = describe(
            rows.outputs[0], name, ir.Shape([6, shape[probe.axis]]), ir.DataType.FLOAT
        )
        self._graph.outputs.append(result)
        self._count += 1

    def unscaled(self, seen: ir.Value, reader: Linear, weight: ir.Value | None) -> ir.Value:
        """Undoes smoothing, which divides a channel and multiplies the reader's row by one scale.

        Each row of the reader's weight in the lowering, `weight`, tells it by comparison with fp32.
        """
        assert weight is not None
        rows = array(reader.weight).astype(np.float32)
        squares = np.maximum(np.square(rows).sum(axis=1), np.finfo(np.float32).tiny)
        name = f"watch/{self._count}/reader"
        direction = add_initializer(self._graph, name, rows / squares[:, None])
        across = add_initializer(self._graph, f"{name}/axis", np.array([1], np.int64))
        scales = self._node("ReduceSum", self._node("Mul", weight, direction), across)
        return self._node("Mul", seen, scales)

    def _products(self, one: ir.Value, other: ir.Value, over: ir.Value) -> ir.Value:
        """Sums products; ReduceSumSquare would take ONNX Runtime three times as long."""
        return self._node("ReduceSum", self._node("Mul", one, other), over)

    def _as_row(self, value: ir.Value) -> ir.Value:
        return self._node("Unsqueeze", value, self._first)

    def _node(self, op_type: str, *inputs: ir.Value) -> ir.Value:
        options = {"keepdims": 0} if op_type.startswith("Reduce") else {}
        node = ir.node(op_type, inputs, options)
        self._graph.append(node)
        return node.outputs[0]


def _has_range(node: ir.Node) -> bool:
    return (
        node.op_type == "QuantizeLinear"
        and node.outputs[0].dtype in GRIDS
        and node.inputs[1] is not None
        and node.inputs[1].is_initializer()
        and array(node.inputs[1]).size == 1
    )


def _add_range(graph: ir.Graph, quantise: ir.Node) -> None:
    """Appends an output with a quantiser's largest input and clipped share: see `JoinedGraph`."""
    value, scale, dtype = quantise.inputs[0], quantise.inputs[1], quantise.outputs[0].dtype
    assert scale is not None
    assert dtype is not None
    reach = array(scale).astype(np.float32).reshape(()) * np.float32(GRIDS[dtype].clips_from)
    end = add_initializer(graph, f"{quantise.name}/end", reach)
    magnitude = ir.node("Abs", [value])
    beyond = ir.node("Greater", [magnitude.outputs[0], end])
    number = ir.node("Cast", beyond.outputs, {"to": ir.DataType.FLOAT})
    share = ir.node("ReduceMean", number.outputs, {"keepdims": 0})
    largest = ir.node("ReduceMax", magnitude.outputs, {"keepdims": 0})
    relative = ir.node("Div", [largest.outputs[0], end])
    axis = graph.initializers["watch/first"]
    rows = [ir.node("Unsqueeze", [n.outputs[0], axis]) for n in (relative, share)]
    both = ir.node("Concat", [n.outputs[0] for n in rows], {"axis": 0})
    graph.extend([magnitude, beyond, number, share, largest, relative, *rows, both])
    name = f"range:{quantise.name}"
    graph.outputs.append(describe(both.outputs[0], name, ir.Shape([2]), ir.DataType.FLOAT))
