"""Frames on a GPU: what the CUDA Array Interface and DLPack say of them."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.specs import engine_spec
from vit_edge.runtime.device_array import DeviceArray, take_device_array
from vit_edge.runtime.errors import InputError
from vit_edge.runtime.frames import check_frames

SPEC = engine_spec("images", "logits", (2, 3, 3), 5, (1, 4, 8))
SHAPE = (4, 2, 3, 3)


def interface(**changes: Any) -> Any:
    plain = {"shape": SHAPE, "typestr": "|u1", "data": (4096, False), "version": 3, "stream": None}
    return SimpleNamespace(__cuda_array_interface__={**plain, **changes})


class TestInterface:
    @pytest.mark.parametrize("stream", [None, 1, 2, 0x7F00])
    def test_address_shape_and_stream_are_taken(self, stream: int | None) -> None:
        source = interface(stream=stream)
        assert take_device_array(source) == DeviceArray(4096, SHAPE, stream, source)

    @pytest.mark.parametrize("version", [0, 1, 2])
    def test_without_a_stream_it_is_the_default_one(self, version: int) -> None:
        array = take_device_array(interface(version=version))
        assert array is not None
        assert array.stream == 1

    def test_strides_of_c_order_are_contiguous(self) -> None:
        assert take_device_array(interface(strides=(18, 9, 3, 1))) is not None
        assert take_device_array(interface(shape=(1, 2, 3, 3), strides=(999, 9, 3, 1))) is not None

    @pytest.mark.parametrize(
        ("changes", "match"),
        [
            ({"typestr": "<f4"}, "'<f4', not uint8"),
            ({"strides": (18, 1, 2, 6)}, r"not C-contiguous \(strides \(18, 1, 2, 6\)\)"),
            ({"mask": object()}, "have a mask"),
            ({"stream": 0}, "name stream 0"),
            ({"stream": -1}, "name stream -1"),
        ],
    )
    def test_what_cannot_be_read_is_refused(self, changes: dict[str, Any], match: str) -> None:
        with pytest.raises(InputError, match=match):
            take_device_array(interface(**changes))

    def test_what_is_not_on_a_gpu_is_none(self) -> None:
        assert take_device_array(torch.zeros(SHAPE, dtype=torch.uint8)) is None
        assert take_device_array([1, 2]) is None


_new_capsule = ctypes.PYFUNCTYPE(
    ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p
)(("PyCapsule_New", ctypes.pythonapi))
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi)
)


class _Capsules:
    """A producer that makes DLPack capsules by hand, as a C library does."""

    def __init__(self, versioned: bool, **changes: Any) -> None:
        self.versioned, self.deleted, self.streams = versioned, 0, list[Any]()
        self.device_kind = changes.pop("kind", 2)
        self.changes = changes
        self._kept: list[Any] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device_kind, 0

    def __dlpack__(self, **asked: Any) -> Any:
        if not self.versioned and "max_version" in asked:
            raise TypeError("__dlpack__() got an unexpected keyword argument 'max_version'")
        self.streams.append(asked["stream"])
        words, name = self._managed()
        block = ctypes.create_string_buffer(words, len(words))
        self._kept.append((block, name))
        destructor = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(partial(self._unused, name))
        self._kept.append(destructor)
        return _new_capsule(ctypes.addressof(block), name, ctypes.cast(destructor, ctypes.c_void_p))

    def _unused(self, name: bytes, capsule: int) -> None:
        """The capsule goes, and its name says that nobody took the tensor."""
        if _is_valid(capsule, name):
            self._delete(0)

    def _managed(self) -> tuple[bytes, bytes]:
        """The structures of dlpack.h, field by field."""
        shape, strides = self._array("shape", SHAPE), self._array("strides", None)
        code, bits, lanes = self.changes.get("dtype", (1, 8, 1))
        tensor = b"".join(
            (
                (4096).to_bytes(8, "little"),
                self.device_kind.to_bytes(4, "little"),
                bytes(4),
                len(SHAPE).to_bytes(4, "little"),
                bytes([code, bits]),
                lanes.to_bytes(2, "little"),
                shape,
                strides,
                self.changes.get("byte_offset", 0).to_bytes(8, "little"),
            )
        )
        deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._delete)
        self._kept.append(deleter)
        address = ctypes.cast(deleter, ctypes.c_void_p).value or 0
        freed_by = address.to_bytes(8, "little")
        if not self.versioned:
            return tensor + bytes(8) + freed_by, b"dltensor"
        major = self.changes.get("major", 1)
        head = major.to_bytes(4, "little") + bytes(4) + bytes(8) + freed_by + bytes(8)
        return head + tensor, b"dltensor_versioned"

    def _array(self, name: str, default: tuple[int, ...] | None) -> bytes:
        values = self.changes.get(name, default)
        if values is None:
            return bytes(8)
        array = (ctypes.c_int64 * len(values))(*values)
        self._kept.append(array)
        return ctypes.addressof(array).to_bytes(8, "little")

    def _delete(self, _: int) -> None:
        self.deleted += 1


@pytest.mark.parametrize("versioned", [False, True])
class TestDLPack:
    def test_a_capsule_is_read_and_given_back_once(self, versioned: bool) -> None:
        source = _Capsules(versioned, byte_offset=512)
        array = take_device_array(source)
        assert array is not None
        assert (array.address, array.shape, array.stream) == (4608, SHAPE, 1)
        assert source.streams == [1]
        part = array.part(1, 2)
        del array
        assert source.deleted == 0
        del part
        gc.collect(1)
        assert source.deleted == 1

    def test_managed_memory_is_taken(self, versioned: bool) -> None:
        assert take_device_array(_Capsules(versioned, kind=13)) is not None

    def test_strides_are_in_elements(self, versioned: bool) -> None:
        assert take_device_array(_Capsules(versioned, strides=(18, 9, 3, 1))) is not None

    @pytest.mark.parametrize(
        ("changes", "match"),
        [
            ({"dtype": (2, 32, 1)}, "type 2 of 32 bits, not uint8"),
            ({"dtype": (0, 8, 1)}, "not uint8"),
            ({"dtype": (1, 8, 4)}, "not uint8"),
            ({"strides": (18, 1, 2, 6)}, "not C-contiguous"),
        ],
    )
    def test_what_cannot_be_read_is_refused_and_given_back(
        self, versioned: bool, changes: dict[str, Any], match: str
    ) -> None:
        source = _Capsules(versioned, **changes)
        with pytest.raises(InputError, match=match):
            take_device_array(source)
        gc.collect(1)
        assert source.deleted == 1

    def test_other_devices_are_none_of_ours(self, versioned: bool) -> None:
        for kind in (1, 3, 10):
            assert take_device_array(_Capsules(versioned, kind=kind)) is None

    def test_an_interface_that_names_its_stream_goes_first(self, versioned: bool) -> None:
        source: Any = _Capsules(versioned)
        source.__cuda_array_interface__ = interface(stream=7).__cuda_array_interface__
        array = take_device_array(source)
        assert array is not None
        assert (array.stream, source.streams) == (7, [])
        source.__cuda_array_interface__["version"] = 2
        array = take_device_array(source)
        assert array is not None
        assert (array.stream, source.streams) == (1, [1])


def test_an_unknown_version_is_refused_and_given_back() -> None:
    source = _Capsules(True, major=2)
    with pytest.raises(InputError, match=r"DLPack 2\.0"):
        take_device_array(source)
    gc.collect(1)
    assert source.deleted == 1


def test_a_producers_refusal_is_ours() -> None:
    def refuse(**asked: Any) -> None:
        raise BufferError("requires grad")

    source = SimpleNamespace(__dlpack__=refuse, __dlpack_device__=lambda: (2, 0))
    with pytest.raises(InputError, match="requires grad"):
        take_device_array(source)


@pytest.mark.parametrize(
    "make",
    [
        lambda frames: torch.from_numpy(frames.copy()),
        lambda frames: SimpleNamespace(
            __dlpack__=frames.__dlpack__, __dlpack_device__=frames.__dlpack_device__
        ),
    ],
)
def test_arrays_of_other_libraries_on_the_host_are_not_copied(
    make: Callable[[np.ndarray], Any],
) -> None:
    frames = np.arange(72, dtype=np.uint8).reshape(SHAPE)
    source = make(frames)
    checked = check_frames(source, SPEC)
    assert isinstance(checked, np.ndarray)
    np.testing.assert_array_equal(checked, frames)
    if isinstance(source, torch.Tensor):
        assert checked.ctypes.data == source.data_ptr()


def test_memory_that_is_nowhere_is_refused() -> None:
    with pytest.raises(InputError, match="pass a numpy array"):
        check_frames(torch.zeros(SHAPE, dtype=torch.uint8, device="meta"), SPEC)


def test_frames_on_the_gpu_come_through_the_engines_check() -> None:
    checked = check_frames(_Capsules(True), SPEC)
    assert isinstance(checked, DeviceArray)
    with pytest.raises(InputError, match=r"\[4, 2, 3, 3\]"):
        check_frames(_Capsules(True), engine_spec("images", "logits", (2, 2, 3), 5, (1, 4, 8)))
