"""Multiplications of a graph, by what they belong to, and the share of them that is quantised."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod

import onnx_ir as ir

from vit_edge.export.graph_edit import size_per_image

ALL, LINEARS, ATTENTION, CONVOLUTIONS = "all", "Linears", "attention", "convolutions"
"""Everything; products with a constant matrix; of two that depend on the image; the rest."""
KINDS = (LINEARS, ATTENTION, CONVOLUTIONS)
_CONVOLUTIONS = ("Conv", "ConvTranspose")
_LAYOUT = ("Reshape", "Transpose", "Cast", "Unsqueeze", "Squeeze", "Identity", "Split", "Slice")


@dataclass(frozen=True)
class Part:
    """Multiplications of one kind, for one image, and those of them that are quantised."""

    kind: str
    total: int
    quantised: int


@dataclass(frozen=True)
class Work:
    """Multiplications of a graph, by kind."""

    parts: tuple[Part, ...] = ()

    @property
    def share(self) -> float:
        """The quantised part of all, 0 to 1."""
        total = sum(part.total for part in self.parts)
        return sum(part.quantised for part in self.parts) / max(total, 1)

    @property
    def shares(self) -> dict[str, float]:
        """The same under `ALL`, and for each kind that the graph has; empty where none is
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
    return Work(tuple(Part(kind, total[kind], quantised[kind]) for kind in KINDS if total[kind]))


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
