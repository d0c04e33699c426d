"""Where a lowered ViT is watched: the residual stream, and the Linears inside each branch.

The stream is found by structure, in the fp32 graph; lowerings keep the names of its tensors. It is
never rescaled, whatever a lowering moves between LayerNorms, Linears and columns of V, so that two
graphs can be compared there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.passes.linears import Linear, find_linears
from export.quantise.sites import LinearSource, find_sites, find_source

EMBEDDING = "embedding"


@dataclass(frozen=True)
class Tap:
    """A tensor of the residual stream.

    Attributes:
        value: `[batch, tokens, D]`, in the fp32 graph.
        incoming: What its branch was added to; None for the embedding, which ends no branch.
        module: The branch, as `blocks.0.attn`.
    """

    value: ir.Value
    incoming: ir.Value | None
    module: str


@dataclass(frozen=True)
class Probe:
    """The output of a Linear inside a branch, compared but not cut.

    Attributes:
        value: `[batch, tokens, N]`, in the fp32 graph.
        fixed: bool `[N]`, the columns that no smoothing may scale.
        module: The Linear, as `blocks.0.mlp.fc1`.
    """

    value: ir.Value
    fixed: NDArray[np.bool_]
    module: str


def find_taps(graph: ir.Graph) -> list[Tap]:
    """The stream in graph order, the embedding first.

    Empty for a graph without a residual Add.
    """
    taps: list[Tap] = []
    for node in graph:
        incoming = _incoming(node)
        if incoming is None:
            continue
        if not taps:
            taps.append(Tap(unsliced(incoming), None, EMBEDDING))
        taps.append(Tap(node.outputs[0], incoming, _branch_name(node, incoming)))
    return taps


def find_probes(graph: ir.Graph, taps: list[Tap]) -> list[Probe]:
    """The Linears whose outputs stay inside a branch; the last of a branch is watched at its
    tap.
    """
    ends = {tap.value.producer() for tap in taps}
    probes = []
    scalable = _scalable_columns(graph)
    for linear in find_linears(graph):
        if ends.isdisjoint(linear.output.consumers()) and linear.output.name is not None:
            fixed = np.ones(int((linear.weight.shape or ir.Shape([0, 0]))[1]), np.bool_)
            for columns in scalable.get(linear.node, ()):
                fixed[columns] = False
            probes.append(Probe(linear.output, fixed, linear.name))
    return probes


def unsliced(value: ir.Value) -> ir.Value:
    """The tensor that `value` is the class token of, or itself."""
    node = value.producer()
    while node is not None and node.op_type == "Slice" and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


def reachable(graph: ir.Graph) -> set[ir.Node]:
    """The nodes that an output depends on."""
    found: set[ir.Node] = set()
    for output in graph.outputs:
        found.update(ancestors(output))
    return found


def ancestors(value: ir.Value) -> Iterator[ir.Node]:
    """The nodes that `value` depends on, each once."""
    seen: set[ir.Node] = set()
    waiting = [value.producer()]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting.extend(v.producer() for v in node.inputs if v is not None)


def _incoming(node: ir.Node) -> ir.Value | None:
    """The stream's side of a residual Add: of its two inputs the one that the other depends on."""
    if node.op_type != "Add":
        return None
    sides = [v for v in node.inputs if v is not None and v.producer() is not None]
    if len(sides) != 2 or any(len(v.shape or ()) != 3 for v in sides):
        return None
    for stream, branch in (sides, sides[::-1]):
        source = unsliced(stream).producer()
        if branch is not stream and any(found is source for found in ancestors(branch)):
            return stream
    return None


def _branch_name(add: ir.Node, incoming: ir.Value) -> str:
    branch = next((v for v in add.inputs if v is not incoming), None)
    node = branch.producer() if branch is not None else None
    linear = str(node.name).rpartition("/")[0] if node is not None else ""
    return linear.rpartition(".")[0] or str(add.name)


def _scalable_columns(graph: ir.Graph) -> dict[ir.Node, list[slice]]:
    found: dict[ir.Node, list[slice]] = {}
    for site in find_sites(graph):
        source = find_source(site)
        if isinstance(source, LinearSource):
            found.setdefault(source.linear.node, []).append(source.columns)
    return found


def linear_inputs(graph: ir.Graph) -> set[str]:
    """Names of the tensors that Linears read."""
    linears: list[Linear] = find_linears(graph)
    return {str(linear.activation.name) for linear in linears}
