"""Layers of a graph that can be quantised or left independently of each other; multiplications of a
graph by kind, and the share of them that is quantised.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from math import prod

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from vit_edge.export.graph_edit import (
    array,
    copy_between,
    find_value,
    rows_per_image,
    size_per_image,
)

from .attention import find_attentions
from .linear_layers import LinearLayer, find_linear_layers

ALL, LINEARS, ATTENTION, CONVOLUTIONS = "all", "Linears", "attention", "convolutions"
"""Everything; products with a constant matrix; products of two activations; convolutions."""
KINDS = (LINEARS, ATTENTION, CONVOLUTIONS)
_CONVOLUTIONS = ("Conv", "ConvTranspose")
_LAYOUT = ("Reshape", "Transpose", "Cast", "Unsqueeze", "Squeeze", "Identity", "Split", "Slice")


@dataclass(frozen=True)
class WorkOfKind:
    """Number of multiplications of one kind for one image, and how many of them are quantised."""

    kind: str
    total: int
    quantised: int


@dataclass(frozen=True)
class Work:
    """Multiplications of a graph, by kind."""

    parts: tuple[WorkOfKind, ...] = ()

    @property
    def share(self) -> float:
        """The quantised share of all multiplications, 0 to 1."""
        total = sum(part.total for part in self.parts)
        return sum(part.quantised for part in self.parts) / max(total, 1)

    @property
    def shares(self) -> dict[str, float]:
        """The share of all under `ALL`, and of each kind that the graph has; empty if nothing is
        quantised.
        """
        if not any(part.quantised for part in self.parts):
            return {}
        return {ALL: self.share, **{p.kind: p.quantised / p.total for p in self.parts if p.total}}


def count_work(graph: ir.Graph) -> Work:
    """Counts the multiplications of every MatMul, Gemm and Conv whose shapes are known."""
    total, quantised = Counter[str](), Counter[str]()
    for node in graph:
        kind = _kind(node)
        if kind is not None:
            cost = multiplications(node)
            total[kind] += cost
            quantised[kind] += cost if few_bits(node) else 0
    return Work(
        tuple(WorkOfKind(kind, total[kind], quantised[kind]) for kind in KINDS if total[kind])
    )


def multiplications(node: ir.Node) -> int:
    """Multiplications of a MatMul, Gemm or Conv for one image; 0 where a shape is not known."""
    result, (left, right) = node.outputs[0], node.inputs[:2]
    if left is None or right is None or result.shape is None:
        return 0
    cost = prod(size_per_image(size) for size in result.shape)
    if node.op_type in _CONVOLUTIONS:
        moved = left if node.op_type == "ConvTranspose" else result
        kernel = prod(size_per_image(size) for size in (right.shape or ())[1:])
        return kernel * prod(size_per_image(size) for size in moved.shape or ())
    turned = node.op_type == "Gemm" and node.attributes.get_int("transA", 0) == 1
    return cost * size_per_image(left.shape[0 if turned else -1]) if left.shape else 0


def _kind(node: ir.Node) -> str | None:
    if node.op_type in _CONVOLUTIONS:
        return CONVOLUTIONS
    if node.op_type not in ("MatMul", "Gemm"):
        return None
    return LINEARS if any(map(_is_constant, node.inputs[:2])) else ATTENTION


def _is_constant(value: ir.Value | None) -> bool:
    """True for a constant, quantised or not."""
    while value is not None and not value.is_initializer():
        node = value.producer()
        if node is None or node.op_type not in ("DequantizeLinear", *_LAYOUT):
            return False
        value = node.inputs[0]
    return value is not None


def few_bits(node: ir.Node) -> bool:
    """True if the weight, or the second operand of a product of two activations, is quantised."""
    return _has_few_bits(node.inputs[1])


def _has_few_bits(value: ir.Value | None) -> bool:
    node = value.producer() if value is not None else None
    while node is not None and node.op_type in _LAYOUT and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node is not None and node.op_type == "DequantizeLinear"


@dataclass(frozen=True)
class Layer:
    """The Linears or convolutions that share an input, or the products of one attention.

    Attributes:
        name: The names of its modules, as `blocks.0.attn.qkv`.
        reads, writes: The names of the tensors that enter and leave it.
        cost: Multiplications for one image.
    """

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    cost: int


def find_layers(exact: ir.Graph, lowered: ir.Graph) -> tuple[Layer, ...]:
    """The layers of `exact` that are quantised in `lowered`, in graph order."""
    quantised = {str(n.outputs[0].name) for n in lowered if n.op_type == "MatMul" and few_bits(n)}
    layers = [
        _of_linears(linears)
        for linears in find_linear_layers(exact)
        if linears.linears[0].node.outputs[0].name in quantised
    ]
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
    """Numbers layers that have the same name, as those of a module that a model calls twice."""
    seen = Counter[str]()
    named = []
    for layer in layers:
        seen[layer.name] += 1
        number = seen[layer.name]
        named.append(layer if number == 1 else replace(layer, name=f"{layer.name} ({number})"))
    return tuple(named)


def _of_linears(layer: LinearLayer) -> Layer:
    cost = sum(array(linear.weight).size for linear in layer.linears)
    cost *= rows_per_image(layer.activation)
    name = " + ".join(linear.name for linear in layer.linears)
    writes = tuple(str(linear.output.name) for linear in layer.linears)
    return Layer(name, (layer.name,), writes, cost)


def _convolutions(exact: ir.Graph, lowered: ir.Graph) -> list[Layer]:
    """Layers of the convolutions that are quantised in `lowered`, grouped by their input."""
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
    """Replaces the layers named in `fallback` in `lowered` by those of `exact`, in place."""
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
    """Gives the copied nodes and tensors the names of those that they replaced."""
    for node in graph:
        node.name = str(node.name).removesuffix("@exact")
        for value in node.outputs:
            value.name = str(value.name).removesuffix("@exact")
