"""Frames on a GPU behind DLPack, read with the standard library alone.

Source: DLPack, "C API" (dlpack.h 1.1) and "Python Specification"; array API standard, `__dlpack__`.
"""

from __future__ import annotations

import ctypes
from math import prod
from typing import Any, NamedTuple

from .errors import InputError, first_line

CUDA, CUDA_MANAGED = 2, 13
"""DLDeviceType: kDLCUDA, kDLCUDAManaged."""
LEGACY_DEFAULT_STREAM = 1
_UNSIGNED = 1
_VERSION = (1, 1)


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
    """DLManagedTensor, of producers that know no versions."""

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
    """A function of CPython's on a capsule and a name."""
    return ctypes.PYFUNCTYPE(returns, ctypes.py_object, ctypes.c_char_p)((name, ctypes.pythonapi))


_is_valid = _python_api("PyCapsule_IsValid", ctypes.c_int)
_pointer = _python_api("PyCapsule_GetPointer", ctypes.c_void_p)
_rename = _python_api("PyCapsule_SetName", ctypes.c_int)
_USED = {name: b"used_" + name for name in _KINDS}  # the capsule keeps a pointer to its name


class Tensor:
    """A producer's tensor, ours until this object goes, which calls the producer's deleter."""

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
    """What a tensor is. `strides` are in elements; None is C-contiguous."""

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
    except Exception:  # the producer's own: taking it as memory of the host says what is wrong
        return None


def take(frames: Any) -> Tensor:
    """Takes an array on a GPU. Its producer makes the legacy default stream wait for what is still
    being written: the one stream that all producers know.

    Raises:
        InputError: if the producer refuses.
    """
    try:
        try:
            capsule = frames.__dlpack__(stream=LEGACY_DEFAULT_STREAM, max_version=_VERSION)
        except TypeError:  # from before DLPack 1.0
            capsule = frames.__dlpack__(stream=LEGACY_DEFAULT_STREAM)
    except Exception as error:  # the producer's own
        raise InputError(
            f"frames are {type(frames).__name__} whose memory is not to be had through DLPack: "
            f"{first_line(error)}"
        ) from None
    return Tensor(capsule)


def is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...] | None) -> bool:
    """Whether strides (in elements) are those of C order; any will do for a dimension of size 1."""
    if strides is None:
        return True
    expected = (prod(shape[i + 1 :]) for i in range(len(shape)))
    return all(
        size <= 1 or stride == wanted
        for size, stride, wanted in zip(shape, strides, expected, strict=True)
    )
