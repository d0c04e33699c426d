"""The parts of a graph that can be quantised or left alone, each on its own."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from vit_edge.export.graph_copy import copy_between, find_value
from vit_edge.export.graph_edit import array

from .attention import find_attentions
from .sites import Site, find_sites


@dataclass(frozen=True)
class Unit:
    """The Linears that share an input, or the products of one attention.

    Attributes:
        name: Of the modules, as `blocks.0.attn.qkv`.
        reads, writes: The names of the tensors that enter and leave it.
        cost: Multiplications of one image.
    """

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    cost: int


def find_units(exact: ir.Graph, lowered: ir.Graph) -> tuple[Unit, ...]:
    """What of `exact` is quantised in `lowered`, in graph order."""
    units = [_linears(site) for site in find_sites(exact)]
    softmaxes = {node.name: node for node in lowered if node.op_type == "Softmax"}
    for attention in find_attentions(exact):
        reader = next(iter(softmaxes[attention.softmax.name].outputs[0].consumers()))
        if reader.op_type == "QuantizeLinear":
            reads = tuple(str(value.name) for value in attention.operands)
            output = attention.mixed.outputs[0]
            cost = sum(_products(node) for node in (attention.scores, attention.mixed))
            units.append(Unit(attention.name, reads, (str(output.name),), cost))
    place = {v.name: i for i, node in enumerate(exact) for v in node.outputs}
    return tuple(sorted(units, key=lambda unit: place[unit.writes[0]]))


def _linears(site: Site) -> Unit:
    tokens = site.activation.shape[1:-1] if site.activation.shape is not None else ()
    cost = sum(array(linear.weight).size for linear in site.linears)
    for size in tokens:
        cost *= size if isinstance(size, int) else 1
    name = " + ".join(linear.name for linear in site.linears)
    writes = tuple(str(linear.output.name) for linear in site.linears)
    return Unit(name, (site.name,), writes, cost)


def _products(node: ir.Node) -> int:
    """Multiplications of `[B, heads, N, K] x [B, heads, K, M]` for one image."""
    product, (left, _) = node.outputs[0].shape, node.inputs
    sizes = [*(product[1:] if product is not None else ())]
    sizes += [left.shape[-1]] if left is not None and left.shape is not None else []
    cost = 1
    for size in sizes:
        cost *= size if isinstance(size, int) else 1
    return cost


def raise_units(
    exact: ir.Model, lowered: ir.Model, units: Collection[Unit], raised: Collection[str]
) -> None:
    """Takes the units named in `raised` out of the quantised `lowered`, in place."""
    for unit in units:
        if unit.name not in raised:
            continue
        reads = {name: find_value(lowered.graph, name) for name in unit.reads}
        for name in unit.writes:
            old, original = find_value(lowered.graph, name), find_value(exact.graph, name)
            node = old.producer()
            assert node is not None
            new = copy_between(original, reads, lowered.graph, node, "@raised")
            old.replace_all_uses_with(new)
    RemoveUnusedNodesPass()(lowered)
    _restore_names(lowered.graph)


def _restore_names(graph: ir.Graph) -> None:
    """The copies take the names of what they replaced."""
    for node in graph:
        node.name = str(node.name).removesuffix("@raised")
        for value in node.outputs:
            value.name = str(value.name).removesuffix("@raised")
