"""Gives a foreign graph the input of our bundles: raw uint8 pixels, normalised inside."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vit_edge.export.graph_edit import add_initializer, array, replace_input
from vit_edge.export.onnx_export import CENTRE, INPUT_NAME
from vit_edge.runtime.preprocess import Preprocess

from .edit import free_name, insert, sizes


def take_uint8_images(model: ir.Model, preprocess: Preprocess) -> None:
    """uint8 `[1, H, W, C]` in, in place of normalised float32 `[1, C, H, W]`; the graph is frozen.

    The normalisation goes into the first convolution where that is exact, else before it.
    """
    graph = model.graph
    old = graph.inputs[0]
    if old.dtype == ir.DataType.UINT8:
        old.name = INPUT_NAME
        return
    old.name = f"{INPUT_NAME} normalised"
    users = list(old.consumers())
    image = ir.val(INPUT_NAME, ir.DataType.UINT8, ir.Shape([1, *preprocess.shape]))
    graph.inputs[0] = image
    first = next(node for node in graph if node in users)
    pixels = insert(first, "Cast", [image], preprocess.shape, {"to": ir.DataType.FLOAT})
    pixels.shape = image.shape
    centre = _constant(graph, "centre", np.array(CENTRE))
    centred = insert(first, "Sub", [pixels, centre], sizes(image))
    turned = insert(first, "Transpose", [centred], sizes(old), {"perm": [0, 3, 1, 2]})
    if len(users) == 1 and _is_unpadded_convolution(first):
        _fold(graph, first, preprocess)
        old.replace_all_uses_with(turned)
        return
    slope, shift = _affine(preprocess)
    scaled = insert(first, "Mul", [turned, _constant(graph, "std", slope)], sizes(old))
    ready = insert(first, "Add", [scaled, _constant(graph, "mean", shift)], sizes(old))
    old.replace_all_uses_with(ready)


def _affine(preprocess: Preprocess) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """float64 `[C, 1, 1]` each: (p / 255 - mean) / std is `slope (p - CENTRE) + shift`."""
    mean, std = (
        np.array(v, dtype=np.float64).reshape(-1, 1, 1) for v in (preprocess.mean, preprocess.std)
    )
    return 1 / (255 * std), (CENTRE - 255 * mean) / (255 * std)


def _constant(graph: ir.Graph, name: str, data: NDArray[np.float64]) -> ir.Value:
    return add_initializer(graph, free_name(graph, name), data.astype(np.float32))


def _is_unpadded_convolution(node: ir.Node) -> bool:
    """A padding of zeros is not one of black pixels; groups do not see every channel."""
    attributes = node.attributes
    return (
        node.op_type == "Conv"
        and all(v is None or v.is_initializer() for v in node.inputs[1:])
        and not any(attributes.get_ints("pads", ()))
        and attributes.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID")
        and attributes.get_int("group", 1) == 1
    )


def _fold(graph: ir.Graph, convolution: ir.Node, preprocess: Preprocess) -> None:
    """See `export.onnx_export.fold_normalisation`."""
    kernel = convolution.inputs[1]
    assert kernel is not None
    slope, shift = _affine(preprocess)
    weight = array(kernel).astype(np.float64)
    moved = (weight * shift).sum(axis=(1, 2, 3))
    old = convolution.inputs[2] if len(convolution.inputs) > 2 else None
    bias = moved if old is None else array(old).astype(np.float64) + moved
    _exchange(graph, convolution, 1, weight * slope)
    _exchange(graph, convolution, 2, bias)


def _exchange(graph: ir.Graph, node: ir.Node, index: int, data: NDArray[np.float64]) -> None:
    """Input `index` becomes a constant of the node's own, under the old one's name if that is
    free.
    """
    old = node.inputs[index] if index < len(node.inputs) else None
    stem = str(node.inputs[1].name).rpartition(".")[0] if node.inputs[1] is not None else ""
    new = _constant(graph, "folded", data)
    if old is None:
        node.resize_inputs(index + 1)
        node.replace_input_with(index, new)
        name = f"{stem}.bias"
    else:
        name = str(old.name)
        replace_input(node, old, new)
    if name not in graph.initializers:
        new.name = name
