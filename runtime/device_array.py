"""Frames that already lie on a GPU, taken without a copy.

DLPack is read with the standard library alone.

Source: CUDA Array Interface, version 3 (Numba documentation); DLPack, "C API" (dlpack.h 1.1) and
"Python Specification"; array API standard, `__dlpack__`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

from .errors import InputError, first_line

CUDA, CUDA_MANAGED = 2, 13
"""DLDeviceType: kDLCUDA, kDLCUDAManaged."""
LEGACY_DEFAULT_STREAM = 1
_UNSIGNED = 1
_VERSION = (1, 1)


@dataclass(frozen=True)
class DeviceArray:
    """C-contiguous uint8 memory on a CUDA device.

    Attributes:
        address: Address of the first byte, on the device.
        shape: `[n, height, width, channels]`.
        stream: The CUDA stream whose queued work makes the contents valid, or None if they are
            valid already.
        owner: Object that keeps the memory alive; held until the outputs are there.
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
        """Returns frames `start` to `stop`, without a copy."""
        stop = min(stop, len(self))
        image = prod(self.shape[1:])
        return DeviceArray(
            self.address + start * image, (stop - start, *self.shape[1:]), self.stream, self.owner
        )


def take_device_array(frames: Any) -> DeviceArray | None:
    """Returns the frames as an array on a GPU; None if they do not say that they lie on one.

    Uses `__cuda_array_interface__` if it names the stream that writes them (version 3), else
    DLPack, whose producer waits for that stream, else the interface with the default stream.

    Raises:
        InputError: if they are not uint8, not C-contiguous, or not readable as they are.
    """
    interface = getattr(frames, "__cuda_array_interface__", None)
    if interface is not None and interface.get("version", 0) >= 3:
        return _from_interface(frames, interface, interface.get("stream"))
    if device_kind(frames) in (CUDA, CUDA_MANAGED):
        return _from_dlpack(frames)
    if interface is not None:
        return _from_interface(frames, interface, LEGACY_DEFAULT_STREAM)
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
    tensor = take(frames)
    info = tensor.describe()
    if not info.is_uint8:
        raise _not_uint8(info.dtype)
    _require_contiguous(info.shape, info.strides)
    return DeviceArray(info.address, info.shape, LEGACY_DEFAULT_STREAM, tensor)


def _not_uint8(dtype: str) -> InputError:
    return InputError(
        f"frames on the GPU are of {dtype}, not uint8: pass pixels as they come, 0 to 255"
    )


def _require_contiguous(shape: tuple[int, ...], strides: Iterable[int] | None) -> None:
    """Raises InputError for other strides, which for uint8 are equal in bytes and in elements."""
    steps = None if strides is None else tuple(strides)
    if not is_contiguous(shape, steps):
        raise InputError(
            f"frames on the GPU are not C-contiguous (strides {steps}): make them [N, H, W, C] and "
            "contiguous first"
        )


class _Device(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int32), ("index", ctypes.c_int32))


class _DataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Managed(ctypes.Structure):
    """DLManagedTensor, from producers without versions."""

    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


class _Versioned(ctypes.Structure):
    """DLManagedTensorVersioned."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


_KINDS: dict[bytes, Any] = {b"dltensor_versioned": _Versioned, b"dltensor": _Managed}


def _python_api(name: str, returns: Any) -> Any:
    """Returns a function of CPython's API that takes a capsule and a name."""
    return ctypes.PYFUNCTYPE(returns, ctypes.py_object, ctypes.c_char_p)((name, ctypes.pythonapi))


_is_valid = _python_api("PyCapsule_IsValid", ctypes.c_int)
_pointer = _python_api("PyCapsule_GetPointer", ctypes.c_void_p)
_rename = _python_api("PyCapsule_SetName", ctypes.c_int)
_USED = {name: b"used_" + name for name in _KINDS}  # the capsule keeps a pointer to its name


class DlpackTensor:
    """A producer's tensor, owned by this object, whose end calls the producer's deleter."""

    def __init__(self, capsule: object) -> None:
        name = next((name for name in _KINDS if _is_valid(capsule, name)), None)
        if name is None:
            raise InputError("frames offer no DLPack tensor, or one that was taken already")
        self._address = _pointer(capsule, name)
        self._managed = _KINDS[name].from_address(self._address)
        _rename(capsule, _USED[name])
        if getattr(self._managed, "major", _VERSION[0]) != _VERSION[0]:
            raise InputError(
                f"frames come as DLPack {self._managed.major}.{self._managed.minor}, which is not "
                f"known here: pass their __cuda_array_interface__"
            )

    def __del__(self) -> None:
        managed = getattr(self, "_managed", None)
        if managed is not None and managed.deleter:
            _Deleter(managed.deleter)(self._address)

    def describe(self) -> TensorInfo:
        tensor = self._managed.tensor
        dtype, count = tensor.dtype, tensor.ndim
        strides = tuple(tensor.strides[:count]) if tensor.strides else None
        return TensorInfo(
            (tensor.data or 0) + tensor.byte_offset,
            tuple(tensor.shape[:count]),
            strides,
            (dtype.code, dtype.bits, dtype.lanes) == (_UNSIGNED, 8, 1),
            f"type {dtype.code} of {dtype.bits} bits",
        )


class TensorInfo(NamedTuple):
    """Description of a tensor. `strides` are in elements; None means C-contiguous."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    is_uint8: bool
    dtype: str


def device_kind(frames: Any) -> int | None:
    """The DLDeviceType of an array's memory; None if it does not offer DLPack."""
    if not hasattr(frames, "__dlpack__") or not hasattr(frames, "__dlpack_device__"):
        return None
    try:
        return int(frames.__dlpack_device__()[0])
    except Exception:  # of any type; taking it as host memory then reports the cause
        return None


def take(frames: Any) -> DlpackTensor:
    """Takes an array on a GPU. Its producer makes the legacy default stream, the one stream that
    all producers know, wait for writes that are still under way.

    Raises:
        InputError: if the producer refuses.
    """
    try:
        try:
            capsule = frames.__dlpack__(stream=LEGACY_DEFAULT_STREAM, max_version=_VERSION)
        except TypeError:  # from before DLPack 1.0
            capsule = frames.__dlpack__(stream=LEGACY_DEFAULT_STREAM)
    except Exception as error:  # of any type
        raise InputError(
            f"frames are {type(frames).__name__} whose memory is not to be had through DLPack: "
            f"{first_line(error)}"
        ) from None
    return DlpackTensor(capsule)


def is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...] | None) -> bool:
    """Returns true if strides (in elements) are those of C order; a dimension of size 1 may have
    any.
    """
    if strides is None:
        return True
    expected = (prod(shape[i + 1 :]) for i in range(len(shape)))
    return all(
        size <= 1 or stride == dense
        for size, stride, dense in zip(shape, strides, expected, strict=True)
    )
