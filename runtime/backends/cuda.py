"""CUDA runtime calls that the TensorRT session needs, through NVIDIA's cuda-bindings.

Source: CUDA Runtime API (Device, Error Handling, Stream, Event, Memory and Graph Management,
Unified Addressing); CUDA compatibility guide.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CUDA_BINDINGS, BackendError, EngineError, ForkedError, engine_error
from .process import REMEDY

_log = logging.getLogger("vit_edge.cuda")


@cache
def _runtime() -> Any:
    try:
        from cuda.bindings import runtime
    except ImportError:
        raise BackendError(
            f"cuda-bindings is not installed: pip install '{CUDA_BINDINGS}'"
        ) from None
    return runtime


def _call(name: str, *arguments: Any) -> Any:
    """Calls a function of the CUDA runtime and returns its value, or a tuple of values.

    Raises:
        EngineError: if CUDA returns an error; ResourceError if it may be temporary.
    """
    require_own_process()
    status, *values = getattr(_runtime(), name)(*arguments)
    if int(status) != 0:
        advice = _remedy(status.name)
        raise engine_error(f"{name} failed: {status.name} ({int(status)}){advice and '; '}{advice}")
    if not _started_in:
        _started_in.append(os.getpid())
    return values[0] if len(values) == 1 else tuple(values)


_started_in: list[int] = []
"""Id of the process that started CUDA, as known in that process and its forked children."""


def require_own_process() -> None:
    """Raises ForkedError in a child of the process that has started CUDA: there every call fails
    with an initialisation error.
    """
    if _started_in and _started_in[0] != os.getpid():
        raise ForkedError(
            f"CUDA was started in process {_started_in[0]} before it forked this one: {REMEDY}"
        )


def _free(name: str, resource: Any) -> None:
    """Frees a resource. After a permanent error this fails too, which is only logged: the caller
    already knows of the error and has more to free.
    """
    try:
        _call(name, resource)
    except EngineError as error:
        _log.info("not freed: %s", str(error))


def device_problem() -> str | None:
    """Returns why no CUDA device can be used, with the remedy; None if one can."""
    try:
        count = _call("cudaGetDeviceCount")
    except (BackendError, ForkedError) as error:
        return str(error)
    except EngineError as error:
        return f"no usable NVIDIA GPU or driver here ({error})"
    return None if count > 0 else "no NVIDIA GPU here"


def device_name() -> str:
    """Returns name and compute capability of the current device, as "NVIDIA L4 (8.9)"."""
    name = _properties().name
    return f"{name.decode() if isinstance(name, bytes) else name} ({compute_capability()})"


def compute_capability() -> str:
    """Returns the current device's compute capability, as "8.9"."""
    properties = _properties()
    return f"{properties.major}.{properties.minor}"


def at_least(capability: str, least: str) -> bool:
    """Returns true if a compute capability, as "8.9", is not below another; "" is below all."""
    numbers = [tuple(map(int, text.split("."))) if text else () for text in (capability, least)]
    return numbers[0] >= numbers[1]


def _properties() -> Any:
    return _call("cudaGetDeviceProperties", current_device())


def current_device() -> int:
    """Returns the device that this thread uses; each thread has its own."""
    return int(_call("cudaGetDevice"))


@contextmanager
def on_device(device: int) -> Iterator[None]:
    """Makes `device` the current one of this thread for the duration of the block."""
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
    """Returns true for memory of that device, and for managed memory, which moves where needed."""
    attributes, kinds = _call("cudaPointerGetAttributes", address), _runtime().cudaMemoryType
    if attributes.type == kinds.cudaMemoryTypeManaged:
        return True
    return bool(attributes.type == kinds.cudaMemoryTypeDevice and attributes.device == device)


class Stream:
    """CUDA stream that does not wait for the default stream."""

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
        """Queues a copy of C-contiguous `source`, which must not change before `synchronize`."""
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
        """Makes later work on this stream wait for what is queued on `stream` by now."""
        _call("cudaEventRecord", self._event, stream)
        _call("cudaStreamWaitEvent", self._stream, self._event, 0)

    def capture(self, work: Callable[[], None]) -> CudaGraph:
        """Captures what `work` queues on this stream as a graph, without running it.

        Raises:
            EngineError: if some of it cannot be captured. The stream stays usable.
        """
        # Thread-local: other threads may allocate meanwhile, which would end a global capture.
        mode = _runtime().cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _call("cudaStreamBeginCapture", self._stream, mode)
        try:
            work()
        except BaseException:
            _end_failed_capture(self._stream)
            raise
        graph = _call("cudaStreamEndCapture", self._stream)
        try:
            return CudaGraph(graph)
        finally:
            _free("cudaGraphDestroy", graph)

    def launch(self, graph: CudaGraph) -> None:
        _call("cudaGraphLaunch", graph.executable, self._stream)

    def synchronize(self) -> None:
        _call("cudaStreamSynchronize", self._stream)

    def close(self) -> None:
        _free("cudaEventDestroy", self._event)
        _free("cudaStreamDestroy", self._stream)


class Timer:
    """Measures the work queued on a stream inside its `with` block, by the device's clock.

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
        """Returns the time that the block took. The stream must have been synchronised since."""
        return float(_call("cudaEventElapsedTime", *self._events))

    def close(self) -> None:
        while self._events:
            _free("cudaEventDestroy", self._events.pop())


def _end_failed_capture(stream: Any) -> None:
    """Discards a capture; ignores the error that CUDA returns if it gave up the capture itself."""
    with suppress(EngineError):
        _call("cudaGraphDestroy", _call("cudaStreamEndCapture", stream))


class CudaGraph:
    """Captured work that is launched as one."""

    def __init__(self, graph: Any) -> None:
        self.executable = _call("cudaGraphInstantiate", graph, 0)

    def close(self) -> None:
        _free("cudaGraphExecDestroy", self.executable)


class DeviceBuffer:
    """Block of device memory; its size is in bytes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.address = int(_call("cudaMalloc", size))

    def close(self) -> None:
        _free("cudaFree", self.address)


class PinnedArray:
    """Host array in page-locked memory, from and to which copies run asynchronously."""

    def __init__(self, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self._address = int(_call("cudaHostAlloc", size, _runtime().cudaHostAllocDefault))
        memory = memoryview((ctypes.c_uint8 * size).from_address(self._address))
        self.array: NDArray[Any] = np.frombuffer(memory, dtype=dtype).reshape(shape)

    def close(self) -> None:
        self.array = np.empty(0)
        _free("cudaFreeHost", self._address)


_LASTING = (
    "cudaErrorAssert",
    "cudaErrorContained",
    "cudaErrorECCUncorrectable",
    "cudaErrorExternalDevice",
    "cudaErrorHardwareStackError",
    "cudaErrorIllegalAddress",
    "cudaErrorIllegalInstruction",
    "cudaErrorInvalidAddressSpace",
    "cudaErrorInvalidPc",
    "cudaErrorLaunchFailure",
    "cudaErrorLaunchTimeout",
    "cudaErrorMisalignedAddress",
    "cudaErrorMpsClientTerminated",
    "cudaErrorTensorMemoryLeak",
)
"""Errors after which every call of this process fails."""

_REMEDIES = {
    "cudaErrorMemoryAllocation": "the GPU is out of memory: end other programs that use it, or "
    "export with a smaller --max-batch",
    "cudaErrorNoDevice": "no NVIDIA GPU is visible: see CUDA_VISIBLE_DEVICES and nvidia-smi",
    "cudaErrorInvalidDevice": "that GPU is not there any more: see nvidia-smi",
    "cudaErrorUnknown": "the GPU may be lost: see nvidia-smi and the kernel's log, then restart",
    "cudaErrorDevicesUnavailable": "another program has the GPU for itself: see nvidia-smi",
    "cudaErrorSystemDriverMismatch": "the driver was updated without a restart: reboot",
    **dict.fromkeys(_LASTING, "CUDA can do nothing more in this process: restart it"),
}


def _remedy(error: str) -> str:
    """Returns one line of advice on the error that CUDA calls `error`; "" for most."""
    if error != "cudaErrorInsufficientDriver":
        return _REMEDIES.get(error, "")
    driver, runtime = _call("cudaDriverGetVersion"), _call("cudaRuntimeGetVersion")
    if driver == 0:
        return "no NVIDIA driver is installed here: install one"
    return (
        f"the NVIDIA driver knows CUDA up to {_as_text(driver)}, cuda-bindings is for "
        f"{_as_text(runtime)}: update the driver, or pip install "
        f"'cuda-bindings<{driver // 1000 + 1}'"
    )


def _as_text(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"
