"""The one input of a foreign graph: an image, of the size that the user says if it takes any."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from vit_edge.runtime.errors import InputError

_CHANNELS = (1, 3)


def require_image(path: Path, graph: ir.Graph, size: tuple[int, int] | None) -> ir.Value:
    """The one input: float32 `[B, C, H, W]` or uint8 `[B, H, W, C]`, of static sizes."""
    images = [v for v in graph.inputs if len(v.shape or ()) == 4]
    others = [str(v.name) for v in graph.inputs if v not in images[:1]]
    if not images or others:
        raise InputError(
            f"{path} takes {', '.join(str(v.name) for v in graph.inputs) or 'nothing'}: one image "
            f"is wanted{', without ' + ', '.join(others) if images else ', of four dimensions'}"
        )
    (image,) = images
    batch, *open_sizes = list(image.shape or ())
    raw = image.dtype == ir.DataType.UINT8
    if not raw and image.dtype != ir.DataType.FLOAT:
        raise InputError(f"{path} takes images of type {image.dtype}: float32 or uint8 is wanted")
    sizes = _fix_sizes(path, image, open_sizes, size)
    if sizes[2 if raw else 0] not in _CHANNELS:
        order = "uint8 [B, H, W, C]" if raw else "float32 [B, C, H, W]"
        raise InputError(f"{path} takes {image.shape}: {order} with 1 or 3 channels is wanted")
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
