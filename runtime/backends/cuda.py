"""The CUDA runtime calls that the TensorRT session needs, through NVIDIA's cuda-bindings.

Source: CUDA Runtime API (Device, Error Handling, Stream, Event, Memory and Graph Management,
Unified Addressing).
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BackendError, EngineError
from .cuda_errors import remedy

_log = logging.getLogger("vit_edge.cuda")


@cache
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
        advice = remedy(status.name, _call)
        raise EngineError(f"{name} failed: {status.name} ({int(status)}){advice and '; '}{advice}")
    return values[0] if len(values) == 1 else tuple(values)


def _free(name: str, resource: Any) -> None:
    """Frees a resource. After an error that lasts this fails as well, which is told to the log: the
    caller knows of the error, and has more to free.
    """
    try:
        _call(name, resource)
    except EngineError as error:
        _log.info("not freed: %s", str(error))


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


def can_read(address: int, device: int) -> bool:
    """Whether memory is that device's, or managed memory, which moves where it is used."""
    attributes, kinds = _call("cudaPointerGetAttributes", address), _runtime().cudaMemoryType
    if attributes.type == kinds.cudaMemoryTypeManaged:
        return True
    return bool(attributes.type == kinds.cudaMemoryTypeDevice and attributes.device == device)


class Stream:
    """A CUDA stream that does not wait for the default stream."""

    def __init__(self) -> None:
        self._stream = _call("cudaStreamCreateWithFlags", _runtime().cudaStreamNonBlocking)
        try:
            self._event = _call("cudaEventCreateWithFlags", _runtime().cudaEventDisableTiming)
        except EngineError:
            _free("cudaStreamDestroy", self._stream)
            raise

    @property
    def handle(self) -> int:
        return int(self._stream)

    def copy_to_device(self, target: DeviceBuffer, source: NDArray[Any]) -> None:
        """Queues a copy; `source` is C-contiguous and unchanged until `synchronize`."""
        self._copy(target.address, source.ctypes.data, source.nbytes, "cudaMemcpyHostToDevice")

    def copy_on_device(self, target: DeviceBuffer, source: int, size: int) -> None:
        """Queues a copy of `size` bytes from the device's own address `source`."""
        self._copy(target.address, source, size, "cudaMemcpyDeviceToDevice")

    def copy_to_host(self, target: NDArray[Any], source: DeviceBuffer) -> None:
        """Queues a copy that fills `target`, which is valid after `synchronize`."""
        self._copy(target.ctypes.data, source.address, target.nbytes, "cudaMemcpyDeviceToHost")

    def _copy(self, target: int, source: int, size: int, kind: str) -> None:
        direction = getattr(_runtime().cudaMemcpyKind, kind)
        _call("cudaMemcpyAsync", target, source, size, direction, self._stream)

    def wait_for(self, stream: int) -> None:
        """What is queued from now on starts when all that is queued on `stream` by now is done."""
        _call("cudaEventRecord", self._event, stream)
        _call("cudaStreamWaitEvent", self._stream, self._event, 0)

    def capture(self, work: Callable[[], None]) -> Graph:
        """A graph of what `work` queues on this stream; nothing of it runs now.

        Raises:
            EngineError: if something in it cannot be captured. The stream is usable afterwards.
        """
        # Thread-local: what other threads do meanwhile, such as allocating, is no concern of ours.
        mode = _runtime().cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _call("cudaStreamBeginCapture", self._stream, mode)
        try:
            work()
        except BaseException:
            _end_failed_capture(self._stream)
            raise
        graph = _call("cudaStreamEndCapture", self._stream)
        try:
            return Graph(graph)
        finally:
            _free("cudaGraphDestroy", graph)

    def launch(self, graph: Graph) -> None:
        _call("cudaGraphLaunch", graph.executable, self._stream)

    def synchronize(self) -> None:
        _call("cudaStreamSynchronize", self._stream)

    def close(self) -> None:
        _free("cudaEventDestroy", self._event)
        _free("cudaStreamDestroy", self._stream)


class Timer:
    """Measures what is queued on a stream inside of its `with` block, by the device's clock.

    Source: CUDA Runtime API, cudaEventElapsedTime.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._events: list[Any] = []

    def __enter__(self) -> None:
        self._record()

    def __exit__(self, *error: object) -> None:
        self._record()

    def _record(self) -> None:
        self._events.append(_call("cudaEventCreate"))
        _call("cudaEventRecord", self._events[-1], self._stream.handle)

    def milliseconds(self) -> float:
        """The time between both ends; the stream was synchronised since."""
        return float(_call("cudaEventElapsedTime", *self._events))

    def close(self) -> None:
        while self._events:
            _free("cudaEventDestroy", self._events.pop())


def _end_failed_capture(stream: Any) -> None:
    """Ends a capture that nobody wants; if CUDA gave it up already, it answers with an error."""
    with suppress(EngineError):
        _call("cudaGraphDestroy", _call("cudaStreamEndCapture", stream))


class Graph:
    """Queued work that is launched as one."""

    def __init__(self, graph: Any) -> None:
        self.executable = _call("cudaGraphInstantiate", graph, 0)

    def close(self) -> None:
        _free("cudaGraphExecDestroy", self.executable)


class DeviceBuffer:
    """Device memory of a fixed size in bytes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.address = int(_call("cudaMalloc", size))

    def close(self) -> None:
        _free("cudaFree", self.address)


class PinnedArray:
    """A host array in page-locked memory, from which and into which copies run asynchronously."""

    def __init__(self, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self._address = int(_call("cudaHostAlloc", size, _runtime().cudaHostAllocDefault))
        memory = memoryview((ctypes.c_uint8 * size).from_address(self._address))
        self.array: NDArray[Any] = np.frombuffer(memory, dtype=dtype).reshape(shape)

    def close(self) -> None:
        self.array = np.empty(0)
        _free("cudaFreeHost", self._address)
