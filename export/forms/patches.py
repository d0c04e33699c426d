"""Forms of the patch embedding and of attention's quantiser.

The embedding as a matrix product of the patches' pixels: a convolution kernel takes 4 channels
where there are 3, and a copy of the image that has them. The quantiser of attention's output:
before or after its heads are laid out as channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from vit_edge.export.graph_edit import add_initializer, array, describe

_CHANNELS_FIRST, _TOKENS = [0, 3, 1, 2], [0, 2, 1]


@dataclass(frozen=True)
class _Embedding:
    """`Transpose -> Conv -> Reshape -> Transpose`, from `pixels` `[B, H, W, C]` to `tokens`
    `[B, N, D]`.
    """

    pixels: ir.Value
    convolution: ir.Node
    tokens: ir.Value


def patches_as_product(model: ir.Model) -> bool:
    """Rewrites every convolution that embeds patches without overlap."""
    embeddings = [embedding for node in model.graph if (embedding := _embedding(node))]
    for embedding in embeddings:
        _rewrite(model.graph, embedding)
    RemoveUnusedNodesPass()(model)
    return bool(embeddings)


def _embedding(node: ir.Node) -> _Embedding | None:
    if node.op_type != "Conv" or not _cuts_patches(node):
        return None
    image = node.inputs[0].producer() if node.inputs[0] is not None else None
    if image is None or not _permutes(image, _CHANNELS_FIRST) or image.inputs[0] is None:
        return None
    value = node.outputs[0]
    for op_type in ("Reshape", "Transpose"):
        users = list(value.consumers())
        if len(users) != 1 or users[0].op_type != op_type:
            return None
        value = users[0].outputs[0]
    last = value.producer()
    tokens = value.shape
    if last is None or not _permutes(last, _TOKENS) or tokens is None or len(tokens) != 3:
        return None
    if not _covers(image.inputs[0].shape, node):
        return None
    return _Embedding(image.inputs[0], node, value)


def _cuts_patches(node: ir.Node) -> bool:
    weight = node.inputs[1]
    shape = weight.shape if weight is not None and weight.is_initializer() else None
    if shape is None or len(shape) != 4 or node.attributes.get_int("group", 1) != 1:
        return False
    strides = node.attributes.get_ints("strides", [1, 1])
    pads = node.attributes.get_ints("pads", [0, 0, 0, 0])
    dilations = node.attributes.get_ints("dilations", [1, 1])
    automatic = node.attributes.get_string("auto_pad", "NOTSET")
    return (
        list(strides) == list(shape)[2:]
        and not any(pads)
        and set(dilations) == {1}
        and automatic in ("NOTSET", "VALID")
    )


def _covers(pixels: ir.Shape | None, node: ir.Node) -> bool:
    """Returns whether the patches cover all of `pixels` `[B, H, W, C]`."""
    patches, kernel = node.outputs[0].shape, node.inputs[1]
    if pixels is None or patches is None or kernel is None or kernel.shape is None:
        return False
    sizes = [*pixels[1:3], *patches[2:], *kernel.shape[2:]]
    if len(sizes) != 6 or not all(isinstance(size, int) for size in sizes):
        return False
    high, wide, rows, columns, patch_high, patch_wide = (int(size) for size in sizes)  # type: ignore[arg-type]
    return (high, wide) == (rows * patch_high, columns * patch_wide)


def _permutes(node: ir.Node, order: list[int]) -> bool:
    return node.op_type == "Transpose" and list(node.attributes["perm"].as_ints()) == order


def _rewrite(graph: ir.Graph, embedding: _Embedding) -> None:
    node, output = embedding.convolution, embedding.convolution.outputs[0]
    kernel = node.inputs[1]
    assert kernel is not None
    assert output.shape is not None
    assert output.dtype is not None
    weight, dtype = array(kernel), output.dtype
    width, channels, high, wide = weight.shape
    batch, _, rows, columns = output.shape
    pixels, nodes = high * wide * channels, list[ir.Node]()

    def add(
        operator: str, inputs: list[ir.Value], shape: list[object], **attributes: object
    ) -> ir.Value:
        name = f"{node.name}/{operator}_{len(nodes)}"
        made = ir.node(operator, inputs, attributes, name=name)  # type: ignore[arg-type]
        nodes.append(made)
        return describe(made.outputs[0], name, ir.Shape(shape), dtype)  # type: ignore[arg-type]

    def sizes(*numbers: object) -> ir.Value:
        return add_initializer(graph, f"{node.name}/sizes", np.array(numbers, np.int64))

    cut = [rows, high, columns, wide * channels]
    value = add("Reshape", [embedding.pixels, sizes(-1, *cut)], [batch, *cut])
    value = add("Transpose", [value], [batch, rows, columns, high, cut[-1]], perm=[0, 1, 3, 2, 4])
    tokens = int(rows) * int(columns)  # type: ignore[arg-type]
    value = add("Reshape", [value, sizes(-1, tokens, pixels)], [batch, tokens, pixels])
    matrix = np.ascontiguousarray(weight.transpose(2, 3, 1, 0).reshape(pixels, width))
    constant = add_initializer(graph, f"{kernel.name}/product", matrix)
    value = add("MatMul", [value, constant], [batch, tokens, width])
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        value = add("Add", [value, bias], [batch, tokens, width])
    graph.insert_before(node, nodes)
    embedding.tokens.replace_all_uses_with(value, replace_graph_outputs=True)


_LAYOUT = ("Transpose", "Reshape")


def quantise_before_layout(model: ir.Model) -> bool:
    """Moves each Q/DQ pair of one scale before the Transpose and Reshape that lead to it."""
    moved = [_move(model.graph, node) for node in model.graph if node.op_type == "QuantizeLinear"]
    return any(moved)


def _move(graph: ir.Graph, quantise: ir.Node) -> bool:
    end, users = quantise.inputs[0], list(quantise.outputs[0].consumers())
    start = _before_layout(end)
    scale = quantise.inputs[1]
    of_one_scale = scale is not None and scale.shape is not None and len(scale.shape) == 0
    one_pair = len(users) == 1 and users[0].op_type == "DequantizeLinear"
    if end is None or start is end or start is None or not one_pair or not of_one_scale:
        return False
    if len(list(end.consumers())) != 1 or end.is_graph_output():
        return False
    (dequantise,) = users
    dequantise.outputs[0].replace_all_uses_with(end)
    start.replace_all_uses_with(dequantise.outputs[0])
    quantise.replace_input_with(0, start)
    for node in (quantise, dequantise):
        node.outputs[0].shape = start.shape
    graph.remove((quantise, dequantise))
    producer = start.producer()
    assert producer is not None
    graph.insert_after(producer, (quantise, dequantise))
    return True


def _before_layout(value: ir.Value | None) -> ir.Value | None:
    """The product whose result is laid out as `value`, which nothing else reads."""
    while value is not None and (node := value.producer()) is not None and node.op_type in _LAYOUT:
        value = node.inputs[0]
        if value is None or len(list(value.consumers())) != 1:
            return None
    node = value.producer() if value is not None else None
    return value if node is not None and node.op_type == "MatMul" else None
