"""Normalisation of a graph's images: read where the graph does it itself, else asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vit_edge.runtime.errors import InputError
from vit_edge.vit.hints import CLIP, HALF, IMAGENET, format_value

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
        constant = _constant(node, value) if node.op_type in _STEPS else None
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


def _constant(node: ir.Node, value: ir.Value) -> NDArray[np.float64] | None:
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
