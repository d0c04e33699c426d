"""Finds where tokens can be merged: blocks whose attention sees all tokens of an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vit_edge.export.graph_edit import array
from vit_edge.export.quantise.attention import Attention, find_attentions

from .following import EACH_NUMBER
from .matching import Keys, sizes_of

_PASSED = ("Cast", "QuantizeLinear", "DequantizeLinear", "Identity", "Clip")
_BRANCH = (*_PASSED, "Transpose", "Reshape", "MatMul", "Add", "Mul", "Gemm")
_BETWEEN_TWO = ("Add", "Mul", "Sub", "Div")
_BY_TOKEN = (*EACH_NUMBER, *_BETWEEN_TWO, "LayerNormalization", "Expand")


class CannotMergeError(Exception):
    """Raised for a graph whose tokens cannot be merged; the message says why."""


@dataclass(frozen=True)
class Block:
    """A block of a ViT.

    Attributes:
        name: The module of its attention, as `blocks.0.attn`.
        softmax: Its attention weights, `[B, heads, N or 1, N]`.
        keys: The keys of its attention.
        stream: The residual stream after its attention, `[B, N, C]`, or `[B, 1, C]` if that is the
            class token alone.
        merges: True if tokens can be merged there.
    """

    name: str
    softmax: ir.Node
    keys: Keys
    stream: ir.Value
    merges: bool


@dataclass(frozen=True)
class Structure:
    """Blocks in their order, number of tokens of an image, and how many of these, the first ones,
    are class or register tokens.
    """

    blocks: tuple[Block, ...]
    tokens: int
    special: int


def find_structure(graph: ir.Graph) -> Structure:
    """Finds the blocks.

    Raises:
        CannotMergeError: if an attention is not over all tokens of an image, or is not recognised.
    """
    softmaxes = [node for node in graph if node.op_type == "Softmax" and _is_square(node)]
    attentions = find_attentions(graph)
    known = {attention.softmax for attention in attentions}
    strange = [node for node in softmaxes if node not in known]
    if not attentions or strange:
        which = f"{strange[0].name} is" if strange else "the model has"
        raise CannotMergeError(
            f"{which} no attention of the form MatMul, Softmax, MatMul: nothing is merged"
        )
    blocks = [_block(attention) for attention in attentions]
    tokens = {sizes_of(block.softmax.outputs[0])[-1] for block in blocks}
    number = tokens.pop()
    if tokens or not isinstance(number, int):
        raise CannotMergeError(
            f"its attentions see {sorted(map(str, {number, *tokens}))} tokens: merging needs them "
            "to see all tokens of an image, always as many"
        )
    if not blocks[0].merges:
        raise CannotMergeError("its one block computes the class token alone")
    special = _count_special(_stream_behind(attentions[0])[0])
    return Structure(tuple(blocks), number, special)


def _is_square(node: ir.Node) -> bool:
    """True for possible attention weights: a Softmax whose last two axes are equally long."""
    shape = sizes_of(node.outputs[0]) if node.outputs[0].shape is not None else []
    return len(shape) >= 3 and shape[-1] == shape[-2] and shape[-1] != 1


def _block(attention: Attention) -> Block:
    name, (_, stream) = attention.name, _stream_behind(attention)
    weights, shape = sizes_of(attention.softmax.outputs[0]), sizes_of(stream)
    if len(weights) != 4 or isinstance(weights[0], int) or weights[0] != shape[0]:
        raise CannotMergeError(
            f"{name} has attention weights {_words(weights)}: merging needs attention over all "
            "tokens of an image, not over windows"
        )
    if len(shape) != 3 or shape[1] not in (1, weights[-1]) or weights[-2] != shape[1]:
        raise CannotMergeError(
            f"{name} has attention weights {_words(weights)} and a stream {_words(shape)}: merging "
            "needs a stream [batch, tokens, channels]"
        )
    merges = shape[1] == weights[-1]
    keys = attention.scores.inputs[1]
    assert keys is not None
    return Block(name, attention.softmax, _keys(keys), stream, merges)


def _words(shape: Sequence[object]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _keys(value: ir.Value) -> Keys:
    """The keys before their transposition for the product, as far as it is recognised."""
    axes = [0, 1, 2, 3]  # current axes of batch, heads, channels, tokens
    node = value.producer()
    while node is not None and node.inputs[0] is not None:
        if node.op_type == "Transpose":
            perm = list(node.attributes["perm"].as_ints())
            axes = [perm[axis] for axis in axes]
        elif node.op_type not in _PASSED:
            break
        value = node.inputs[0]
        node = value.producer()
    return Keys(value, heads=axes[1], tokens=axes[3], channels=axes[2])


def _stream_behind(attention: Attention) -> tuple[ir.Value, ir.Value]:
    """The residual stream before an attention, and its sum with the attention's output."""
    value = attention.mixed.outputs[0]
    while True:
        readers = list(value.consumers())
        node = readers[0] if readers else None
        if len(readers) != 1 or node is None or node.op_type not in _BRANCH:
            raise CannotMergeError(
                f"{attention.name} has no residual Add behind it that is recognised"
            )
        others = [v for v in node.inputs if v is not value and v is not None]
        if node.op_type == "Add" and not any(map(_is_constant, others)):
            return others[0], node.outputs[0]
        value = node.outputs[0]


def _is_constant(value: ir.Value) -> bool:
    node = value.producer()
    if node is None:
        return value.is_initializer()
    return node.op_type in _PASSED and node.inputs[0] is not None and _is_constant(node.inputs[0])


def _count_special(stream: ir.Value) -> int:
    """Counts the tokens that are no part of the image, which come before those that are.

    Raises:
        CannotMergeError: if some come later, or it cannot be determined which they are.
    """
    of_image = _rows_of_image(stream)
    special = int(of_image.argmax()) if of_image.any() else len(of_image)
    if not of_image[special:].all():
        raise CannotMergeError("class or register tokens come behind those of the image")
    return special


def _rows_of_image(value: ir.Value) -> NDArray[np.bool_]:
    """For each token of `[B, N, C]`, or once for all tokens, True if it depends on the image."""
    node = value.producer()
    inputs = [] if node is None else [v for v in node.inputs if v is not None]
    if node is not None and _joins_tokens(node):
        return np.concatenate([np.broadcast_to(_rows_of_image(v), _tokens(v)) for v in inputs])
    if node is not None and node.op_type == "Slice":
        cut = _cut_tokens(node)
        if cut is not None:
            return np.broadcast_to(_rows_of_image(inputs[0]), _tokens(inputs[0]))[cut]
    if node is not None and node.op_type in _BY_TOKEN:
        rows = np.zeros(_tokens(value), bool)
        for operand in inputs[: 2 if node.op_type in _BETWEEN_TWO else 1]:
            rows = rows | _rows_of_image(operand)
        return rows
    if node is not None and node.op_type == "MatMul" and _is_constant(inputs[1]):  # a Linear
        return _rows_of_image(inputs[0])
    for other in _ancestors(value):
        if _joins_tokens(other) and len({_depends_on_image(v) for v in other.inputs if v}) == 2:
            assert node is not None
            raise CannotMergeError(
                f"which tokens are class or register tokens is not seen: {other.name} adds some, "
                f"and {node.name} ({node.op_type}) comes behind it"
            )
    return np.full(1, _depends_on_image(value))


def _joins_tokens(node: ir.Node) -> bool:
    """True for a Concat of tokens, `[B, N, C]` along N."""
    shape = node.outputs[0].shape
    if node.op_type != "Concat" or shape is None or len(shape) != 3:
        return False
    return node.attributes.get_int("axis", 0) % 3 == 1


def _cut_tokens(node: ir.Node) -> slice | None:
    """The tokens that a Slice takes; None if it cuts another axis, or its bounds are not known."""
    bounds = [v for v in node.inputs[1:] if v is not None]
    if len(bounds) < 3 or not all(v.is_initializer() and sizes_of(v) == [1] for v in bounds):
        return None
    start, end, axis, *step = (int(array(v)[0]) for v in bounds)
    return slice(start, end, *step) if axis % len(sizes_of(node.outputs[0])) == 1 else None


def _tokens(value: ir.Value) -> int:
    size = sizes_of(value)[1]
    return size if isinstance(size, int) else 1


def _depends_on_image(value: ir.Value) -> bool:
    """True if the image's pixels, not its shape alone, reach `value`."""
    read = [value, *(v for node in _ancestors(value) for v in node.inputs if v is not None)]
    return any(v.producer() is None and not v.is_initializer() for v in read)


def _ancestors(value: ir.Value) -> Iterator[ir.Node]:
    """Yields the nodes whose numbers reach `value`; the search stops at nodes that read a shape."""
    seen, waiting = set[ir.Node](), [value]
    while waiting:
        node = waiting.pop().producer()
        if node is not None and node.op_type != "Shape" and node not in seen:
            seen.add(node)
            yield node
            waiting += [v for v in node.inputs if v is not None]
