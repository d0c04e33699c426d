"""Frames that already lie on a GPU, taken without a copy.

Source: CUDA Array Interface, version 3 (Numba documentation); DLPack, Python specification.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

from . import dlpack
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
    """The frames where they lie on a GPU; None if they do not, as far as they tell.

    Taken through `__cuda_array_interface__` if it names the stream that writes them (version 3),
    else through DLPack, whose producer waits for it, else as if the default stream wrote them.

    Raises:
        InputError: if they are not uint8, not C-contiguous, or not readable as they are.
    """
    interface = getattr(frames, "__cuda_array_interface__", None)
    if interface is not None and interface.get("version", 0) >= 3:
        return _from_interface(frames, interface, interface.get("stream"))
    if dlpack.device_kind(frames) in (dlpack.CUDA, dlpack.CUDA_MANAGED):
        return _from_dlpack(frames)
    if interface is not None:
        return _from_interface(frames, interface, dlpack.LEGACY_DEFAULT_STREAM)
    return None


def _from_interface(frames: Any, interface: Any, stream: int | None) -> DeviceArray:
    shape = tuple(int(size) for size in interface["shape"])
    if interface["typestr"] not in ("|u1", "<u1", ">u1", "=u1"):
        raise _not_uint8(repr(interface["typestr"]))
    if interface.get("mask") is not None:
        raise InputError("frames on the GPU have a mask: pass a plain array")
    if stream is not None and stream <= 0:
        raise InputError(
            f"frames on the GPU name stream {stream}: the CUDA Array Interface allows 1 (default), "
            "2 (per thread) and handles"
        )
    _require_contiguous(shape, interface.get("strides"))
    return DeviceArray(int(interface["data"][0]), shape, stream, frames)


def _from_dlpack(frames: Any) -> DeviceArray:
    tensor = dlpack.take(frames)
    info = tensor.describe()
    if not info.is_uint8:
        raise _not_uint8(info.dtype)
    _require_contiguous(info.shape, info.strides)
    return DeviceArray(info.address, info.shape, dlpack.LEGACY_DEFAULT_STREAM, tensor)


def _not_uint8(dtype: str) -> InputError:
    return InputError(
        f"frames on the GPU are of {dtype}, not uint8: pass pixels as they come, 0 to 255"
    )


def _require_contiguous(shape: tuple[int, ...], strides: Iterable[int] | None) -> None:
    """Strides of uint8 are the same in bytes and in elements."""
    found = None if strides is None else tuple(strides)
    if not dlpack.is_contiguous(shape, found):
        raise InputError(
            f"frames on the GPU are not C-contiguous (strides {found}): make them [N, H, W, C] and "
            "contiguous first"
        )
