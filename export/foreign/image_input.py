"""The one input of a foreign graph: an image of a known size, whose normalisation is read where the
graph does it itself, and which becomes raw uint8 pixels in the end, as our bundles take them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vit_edge.export.graph_edit import (
    add_initializer,
    array,
    free_name,
    insert,
    replace_input,
    sizes,
)
from vit_edge.export.onnx_export import CENTRE, INPUT_NAME
from vit_edge.runtime.errors import InputError
from vit_edge.runtime.preprocess import Preprocess
from vit_edge.vit.hints import CLIP, HALF, IMAGENET, format_value

_CHANNELS = (1, 3)


def require_image(path: Path, graph: ir.Graph, size: tuple[int, int] | None) -> ir.Value:
    """The one input: float32 `[B, C, H, W]` or uint8 `[B, H, W, C]`, of static sizes."""
    images = [v for v in graph.inputs if len(v.shape or ()) == 4]
    others = [str(v.name) for v in graph.inputs if v not in images[:1]]
    if not images or others:
        raise InputError(
            f"{path} takes {', '.join(str(v.name) for v in graph.inputs) or 'nothing'}: one image "
            f"is expected{', without ' + ', '.join(others) if images else ', of four dimensions'}"
        )
    (image,) = images
    batch, *open_sizes = list(image.shape or ())
    raw = image.dtype == ir.DataType.UINT8
    if not raw and image.dtype != ir.DataType.FLOAT:
        raise InputError(f"{path} takes images of type {image.dtype}: float32 or uint8 is expected")
    sizes = _fix_sizes(path, image, open_sizes, size)
    if sizes[2 if raw else 0] not in _CHANNELS:
        order = "uint8 [B, H, W, C]" if raw else "float32 [B, C, H, W]"
        raise InputError(f"{path} takes {image.shape}: {order} with 1 or 3 channels is expected")
    if isinstance(batch, int) and batch != 1:
        raise InputError(
            f"{path} takes {batch} images at a time: export it again with a dynamic batch, or with "
            "a batch of 1"
        )
    return image


def _fix_sizes(
    path: Path,
    image: ir.Value,
    sizes: Sequence[int | ir.SymbolicDim],
    size: tuple[int, int] | None,
) -> list[int]:
    """Gives the image's open sizes those of `--image-size`, and as many channels as are read."""
    height = 0 if image.dtype == ir.DataType.UINT8 else 1
    channels = 2 if height == 0 else 0
    fixed = [n if isinstance(n, int) and n > 0 else None for n in sizes]
    known, shape = fixed[height : height + 2], list(fixed)
    if None in known and size is None:
        raise InputError(
            f"{path} takes images of any size ({image.shape}): say with --image-size which one to "
            "export it for"
        )
    if size is not None:
        for place, (own, asked) in enumerate(zip(known, size, strict=True), height):
            if own not in (None, asked):
                raise InputError(
                    f"{path} takes images of {' x '.join(str(n) for n in known)} pixels, "
                    f"--image-size says {' x '.join(map(str, size))}: leave it out"
                )
            shape[place] = asked
    if shape[channels] is None:
        shape[channels] = _channels_read(image)
    static = [int(n) for n in shape if n is not None]
    image.shape = ir.Shape([(image.shape or [1])[0], *static])
    return static


def _channels_read(image: ir.Value) -> int:
    """Those of the convolution that reads the image; 3 where another operator does."""
    for node in image.consumers():
        kernel = node.inputs[1] if node.op_type == "Conv" else None
        if kernel is not None and kernel.shape is not None and isinstance(kernel.shape[1], int):
            return kernel.shape[1] * node.attributes.get_int("group", 1)
    return 3


_STEPS = ("Sub", "Add", "Mul", "Div")
_UNIT_SPREAD, _BYTE_SPREAD = (0.05, 1.0), (12.0, 256.0)
"""Deviations that normalisations have on the 0-1 and on the 0-255 scale."""
_BYTE = 255.0


@dataclass(frozen=True)
class OwnNormalisation:
    """Normalisation of a graph's float input before anything else, as (x - mean) / std.

    Attributes:
        mean, std: Per channel, or one for all; on the scale of the input.
        bytes_in: True if the input is 0 to 255, False if it is 0 to 1.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    bytes_in: bool

    def input_std(self, channels: int) -> tuple[float, ...]:
        """The deviation by which pixels on the 0-1 scale become the input; its mean is 0."""
        return ((1 / _BYTE) if self.bytes_in else 1.0,) * channels

    def __str__(self) -> str:
        scale = "0-255" if self.bytes_in else "0-1"
        mean, std = (format_value(tuple(round(v, 4) for v in vs)) for vs in (self.mean, self.std))
        return f"mean {mean}, std {std} on the {scale} scale"


def read_own_normalisation(image: ir.Value) -> OwnNormalisation | None:
    """Reads Sub, Add, Mul and Div by constants right behind the input `image`, `[B, C, H, W]`.

    Returns:
        None if there are none, or they are no normalisation of images.
    """
    gain, shift = np.ones(1), np.zeros(1)
    value, steps = image, 0
    while True:
        users = list(value.consumers())
        if len(users) != 1 or value.is_graph_output():
            break
        (node,) = users
        if node.op_type == "Identity":
            value = node.outputs[0]
            continue
        constant = _other_input(node, value) if node.op_type in _STEPS else None
        if constant is None:
            break
        first = node.inputs[0] is value
        if node.op_type == "Sub":
            sign = 1.0 if first else -1.0
            gain, shift = sign * gain, sign * (shift - constant)
        elif node.op_type == "Add":
            shift = shift + constant
        elif node.op_type == "Mul":
            gain, shift = gain * constant, shift * constant
        elif first and np.all(constant != 0):
            gain, shift = gain / constant, shift / constant
        else:
            break
        value, steps = node.outputs[0], steps + 1
    return _judge(gain, shift) if steps else None


def _other_input(node: ir.Node, value: ir.Value) -> NDArray[np.float64] | None:
    """The other input of `node`, if it is one number or one for each channel."""
    others = [v for v in node.inputs if v is not value and v is not None]
    tensor = ir.convenience.get_const_tensor(others[0]) if len(others) == 1 else None
    if tensor is None:
        return None
    data = tensor.numpy().astype(np.float64)
    shape = (1,) * (4 - data.ndim) + data.shape
    return data.reshape(-1) if len(shape) == 4 and data.size == shape[1] else None


def _judge(gain: NDArray[np.float64], shift: NDArray[np.float64]) -> OwnNormalisation | None:
    if not np.all(gain > 0) or (np.allclose(gain, 1) and np.allclose(shift, 0)):
        return None
    gain, shift = np.broadcast_arrays(gain, shift)
    mean, std = (0.0 - shift) / gain, 1 / gain
    for bytes_in, (low, high) in ((False, _UNIT_SPREAD), (True, _BYTE_SPREAD)):
        top = _BYTE if bytes_in else 1.0
        if np.all((mean >= 0) & (mean <= top) & (std >= low) & (std <= high)):
            return OwnNormalisation(tuple(mean.tolist()), tuple(std.tolist()), bytes_in)
    return None


def ask_for_normalisation(missing: Sequence[str] = ("mean", "std")) -> InputError:
    """Makes the error of a model that nothing says the normalisation of."""
    options = " and ".join(f"--{name}" for name in missing)
    usual = {"ImageNet's": IMAGENET, "half": HALF, "CLIP's": CLIP}
    choices = "; ".join(
        f"{name}: --mean {format_value(mean)} --std {format_value(std)}"
        for name, (mean, std) in usual.items()
    )
    return InputError(
        f"nothing says how the model's images are normalised: give {options} as in "
        f"its training (in Python preprocess=). Usual are {choices}; a wrong one costs accuracy "
        "that no check can see"
    )


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
