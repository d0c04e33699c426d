"""Layers of a graph that can be quantised or left alone, each on its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from vit_edge.export.graph_copy import copy_between, find_value
from vit_edge.export.graph_edit import array, rows_per_image

from .attention import find_attentions
from .sites import Site, find_sites
from .work import few_bits, multiplications


@dataclass(frozen=True)
class Layer:
    """The Linears or convolutions that share an input, or the products of one attention.

    Attributes:
        name: Of the modules, as `blocks.0.attn.qkv`.
        reads, writes: The names of the tensors that enter and leave it.
        cost: Multiplications of one image.
    """

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    cost: int


def find_layers(exact: ir.Graph, lowered: ir.Graph) -> tuple[Layer, ...]:
    """The layers of `exact` that are quantised in `lowered`, in graph order."""
    quantised = {str(n.outputs[0].name) for n in lowered if n.op_type == "MatMul" and few_bits(n)}
    sites = find_sites(exact)
    layers = [_linears(s) for s in sites if s.linears[0].node.outputs[0].name in quantised]
    layers += _convolutions(exact, lowered)
    softmaxes = {node.name: node for node in lowered if node.op_type == "Softmax"}
    for attention in find_attentions(exact):
        reader = next(iter(softmaxes[attention.softmax.name].outputs[0].consumers()))
        if reader.op_type == "QuantizeLinear":
            reads = tuple(str(value.name) for value in attention.operands)
            output = attention.mixed.outputs[0]
            cost = sum(multiplications(node) for node in (attention.scores, attention.mixed))
            layers.append(Layer(attention.name, reads, (str(output.name),), cost))
    place = {v.name: i for i, node in enumerate(exact) for v in node.outputs}
    return _named_apart(sorted(layers, key=lambda layer: place[layer.writes[0]]))


def _named_apart(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Numbers layers of one name, as those of a module that a model calls twice."""
    seen = Counter[str]()
    named = []
    for layer in layers:
        seen[layer.name] += 1
        number = seen[layer.name]
        named.append(layer if number == 1 else replace(layer, name=f"{layer.name} ({number})"))
    return tuple(named)


def _linears(site: Site) -> Layer:
    cost = sum(array(linear.weight).size for linear in site.linears)
    cost *= rows_per_image(site.activation)
    name = " + ".join(linear.name for linear in site.linears)
    writes = tuple(str(linear.output.name) for linear in site.linears)
    return Layer(name, (site.name,), writes, cost)


def _convolutions(exact: ir.Graph, lowered: ir.Graph) -> list[Layer]:
    """The convolutions that share an input, those that read it quantised in `lowered`."""
    quantised = {
        str(node.outputs[0].name) for node in lowered if node.op_type == "Conv" and few_bits(node)
    }
    groups: dict[str, list[ir.Node]] = {}
    for node in exact:
        if node.op_type == "Conv" and node.outputs[0].name in quantised:
            assert node.inputs[0] is not None
            groups.setdefault(str(node.inputs[0].name), []).append(node)
    layers = []
    for read, nodes in groups.items():
        names = [str(node.name).rpartition("/")[0] or str(node.name) for node in nodes]
        writes = tuple(str(node.outputs[0].name) for node in nodes)
        layers.append(Layer(" + ".join(names), (read,), writes, sum(map(multiplications, nodes))))
    return layers


def apply_fallback(
    exact: ir.Model, lowered: ir.Model, layers: Collection[Layer], fallback: Collection[str]
) -> None:
    """Takes the layers named in `fallback` out of the quantised `lowered`, in place."""
    for layer in layers:
        if layer.name not in fallback:
            continue
        reads = {name: find_value(lowered.graph, name) for name in layer.reads}
        for name in layer.writes:
            old, original = find_value(lowered.graph, name), find_value(exact.graph, name)
            node = old.producer()
            assert node is not None
            new = copy_between(original, reads, lowered.graph, node, "@exact")
            old.replace_all_uses_with(new)
            old.name, new.name = f"{name}@replaced", name  # the next layer may read it
    RemoveUnusedNodesPass()(lowered)
    _restore_names(lowered.graph)


def _restore_names(graph: ir.Graph) -> None:
    """Gives the copies the names of the tensors that they replaced."""
    for node in graph:
        node.name = str(node.name).removesuffix("@exact")
        for value in node.outputs:
            value.name = str(value.name).removesuffix("@exact")
