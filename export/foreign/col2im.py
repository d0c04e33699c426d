"""Writes Col2Im, which TensorRT's parser refuses, as a transposed convolution."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx_ir as ir

from vit_edge.export.graph_edit import add_initializer

from .attention import reshape
from .edit import free_name, insert, rewire, sizes
from .evaluate import constant


class WriteCol2ImAsConvolution(ir.passes.InPlacePass):
    """`Reshape -> ConvTranspose` in the place of a Col2Im over two axes.

    Each input channel is one place of the block of its output channel: its kernel is 1 at that
    place and 0 elsewhere, so that overlapping blocks are summed up.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        nodes = [node for node in model.graph if node.op_type == "Col2Im"]
        written = [_write(node) for node in nodes]
        return ir.passes.PassResult(model, modified=any(written))


def _write(node: ir.Node) -> bool:
    columns, (image, block) = node.inputs[0], map(constant, node.inputs[1:3])
    shape = sizes(columns)
    if columns is None or image is None or block is None or len(image) != 2 or len(shape) != 3:
        return False
    size, kernel = image.astype(int), block.astype(int)
    strides = np.array(node.attributes.get_ints("strides", (1, 1)))
    dilations = np.array(node.attributes.get_ints("dilations", (1, 1)))
    pads = np.array(node.attributes.get_ints("pads", (0, 0, 0, 0)))
    padding, reach = pads[:2] + pads[2:], dilations * (kernel - 1) + 1
    blocks = (size + padding - reach) // strides + 1
    left_over = size - ((blocks - 1) * strides - padding + reach)
    channels = shape[1] // prod(kernel.tolist())
    grid = reshape(node, columns, (*shape[:2], *blocks.tolist()))
    attributes = {
        "group": channels,
        "kernel_shape": kernel.tolist(),
        "strides": strides.tolist(),
        "dilations": dilations.tolist(),
        "pads": pads.tolist(),
        "output_padding": left_over.tolist(),
    }
    inputs = [grid, _places(node, channels, kernel.tolist())]
    images = (shape[0], channels, *size.tolist())
    rewire(node.outputs[0], insert(node, "ConvTranspose", inputs, images, attributes))
    return True


def _places(node: ir.Node, channels: int, kernel: list[int]) -> ir.Value:
    """float32 `[channels * places, 1, height, width]`, the kernels."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    places = prod(kernel)
    one = np.eye(places, dtype=np.float32).reshape(places, 1, *kernel)
    return add_initializer(graph, free_name(graph, "places"), np.tile(one, (channels, 1, 1, 1)))
