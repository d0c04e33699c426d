"""Frames that already lie on a GPU, taken without a copy.

Source: CUDA Array Interface, version 3 (Numba documentation); DLPack, Python specification.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from .errors import InputError


@dataclass(frozen=True)
class DeviceArray:
    """C-contiguous uint8 memory on a CUDA device.

    Attributes:
        address: Of the first byte, on the device.
        shape: `[n, height, width, channels]`.
        stream: The CUDA stream whose queued work makes the contents valid, or None if they are
            valid already.
        owner: What keeps the memory alive; held until the answer is there.
    """

    address: int
    shape: tuple[int, ...]
    stream: int | None
    owner: object

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        return prod(self.shape)

    def part(self, start: int, stop: int) -> DeviceArray:
        """Images `start` to `stop`, without a copy."""
        stop = min(stop, len(self))
        image = prod(self.shape[1:])
        return DeviceArray(
            self.address + start * image, (stop - start, *self.shape[1:]), self.stream, self.owner
        )


def on_device(frames: Any) -> DeviceArray | None:
    """The array behind `__cuda_array_interface__`; None if `frames` has none.

    Raises:
        InputError: if it is not uint8, not C-contiguous, or not readable as it is.
    """
    interface = getattr(frames, "__cuda_array_interface__", None)
    if interface is None:
        return None
    shape = tuple(int(size) for size in interface["shape"])
    if interface["typestr"] not in ("|u1", "<u1", ">u1", "=u1"):
        raise InputError(
            f"frames on the GPU are of type {interface['typestr']!r}, not uint8: pass pixels as "
            "they come, 0 to 255"
        )
    if interface.get("mask") is not None:
        raise InputError("frames on the GPU have a mask: pass a plain array")
    strides = interface.get("strides")
    if strides is not None and tuple(strides) != _c_strides(shape):
        raise InputError(
            f"frames on the GPU are not C-contiguous (strides {tuple(strides)}): make them "
            "[N, H, W, C] and contiguous first"
        )
    return DeviceArray(int(interface["data"][0]), shape, interface.get("stream"), frames)


def _c_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(prod(shape[i + 1 :]) for i in range(len(shape)))
