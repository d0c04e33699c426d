"""The few CUDA runtime calls that the TensorRT session needs, through NVIDIA's cuda-bindings.

Source: CUDA Runtime API, "Memory Management" and "Stream Management".
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BackendError, EngineError


def _runtime() -> Any:
    try:
        from cuda.bindings import runtime
    except ImportError:
        raise BackendError("cuda-bindings is not installed: pip install cuda-bindings") from None
    return runtime


def _call(name: str, *arguments: Any) -> Any:
    """Calls a function of the CUDA runtime and returns its value, or a tuple of them.

    Raises:
        EngineError: if CUDA answers with an error.
    """
    status, *values = getattr(_runtime(), name)(*arguments)
    if int(status) != 0:
        raise EngineError(f"{name} failed: {status.name} ({int(status)})")
    return values[0] if len(values) == 1 else tuple(values)


def device_problem() -> str | None:
    """Why no CUDA device can be used, with the remedy; None if one can."""
    try:
        count = _call("cudaGetDeviceCount")
    except BackendError as error:
        return str(error)
    except EngineError as error:
        return f"no usable NVIDIA GPU or driver here ({error})"
    return None if count > 0 else "no NVIDIA GPU here"


def device_name() -> str:
    """Name and compute capability of the current device, as "NVIDIA L4 (8.9)"."""
    name = _properties().name
    return f"{name.decode() if isinstance(name, bytes) else name} ({compute_capability()})"


def compute_capability() -> str:
    """The current device's, as "8.9"."""
    properties = _properties()
    return f"{properties.major}.{properties.minor}"


def _properties() -> Any:
    return _call("cudaGetDeviceProperties", current_device())


def current_device() -> int:
    """Which device this thread uses; each thread has its own."""
    return int(_call("cudaGetDevice"))


@contextmanager
def on_device(device: int) -> Iterator[None]:
    """Makes `device` this thread's for the time being."""
    before = current_device()
    if before == device:
        yield
        return
    _call("cudaSetDevice", device)
    try:
        yield
    finally:
        _call("cudaSetDevice", before)


class Stream:
    """A CUDA stream that does not wait for the default stream."""

    def __init__(self) -> None:
        self._stream = _call("cudaStreamCreateWithFlags", _runtime().cudaStreamNonBlocking)

    @property
    def handle(self) -> int:
        return int(self._stream)

    def copy_to_device(self, target: DeviceBuffer, source: NDArray[Any]) -> None:
        """Queues a copy; `source` is C-contiguous and unchanged until `synchronize`."""
        kind = _runtime().cudaMemcpyKind.cudaMemcpyHostToDevice
        _call(
            "cudaMemcpyAsync", target.address, source.ctypes.data, source.nbytes, kind, self._stream
        )

    def copy_to_host(self, target: NDArray[Any], source: DeviceBuffer) -> None:
        """Queues a copy that fills `target`, which is valid after `synchronize`."""
        kind = _runtime().cudaMemcpyKind.cudaMemcpyDeviceToHost
        _call(
            "cudaMemcpyAsync", target.ctypes.data, source.address, target.nbytes, kind, self._stream
        )

    def synchronize(self) -> None:
        _call("cudaStreamSynchronize", self._stream)

    def close(self) -> None:
        _call("cudaStreamDestroy", self._stream)


class DeviceBuffer:
    """Device memory of a fixed size in bytes."""

    def __init__(self, size: int) -> None:
        self.address = int(_call("cudaMalloc", size))

    def close(self) -> None:
        _call("cudaFree", self.address)


class PinnedArray:
    """A host array in page-locked memory, from which and into which copies run asynchronously."""

    def __init__(self, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self._address = int(_call("cudaHostAlloc", size, _runtime().cudaHostAllocDefault))
        memory = memoryview((ctypes.c_uint8 * size).from_address(self._address))
        self.array: NDArray[Any] = np.frombuffer(memory, dtype=dtype).reshape(shape)

    def close(self) -> None:
        self.array = np.empty(0)
        _call("cudaFreeHost", self._address)
