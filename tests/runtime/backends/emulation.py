"""An emulated GPU for the TensorRT session: ONNX Runtime computes, in memory that stands for a
device's.

Work is deferred until the stream is synchronised, so that a missing synchronisation shows as a
wrong answer. The "engine" is the ONNX graph itself.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2


class Status(int):
    name = "cudaErrorMemoryAllocation"


class EmulatedCuda:
    """Stands for `cuda.bindings.runtime`: every function answers (status, values...)."""

    cudaStreamNonBlocking = 1  # noqa: N815
    cudaHostAllocDefault = 0  # noqa: N815
    cudaMemcpyKind = SimpleNamespace(  # noqa: N815
        cudaMemcpyHostToDevice=HOST_TO_DEVICE, cudaMemcpyDeviceToHost=DEVICE_TO_HOST
    )

    def __init__(self, allocations: int = 1000) -> None:
        self.memory: dict[int, Any] = {}
        self.device: set[int] = set()
        self.streams: dict[int, list[Callable[[], None]]] = {}
        self.allocations = allocations

    def cudaGetDeviceCount(self) -> tuple[int, int]:  # noqa: N802
        return 0, 1

    def cudaGetDevice(self) -> tuple[int, int]:  # noqa: N802
        return 0, 0

    def cudaGetDeviceProperties(self, device: int) -> tuple[int, Any]:  # noqa: N802
        return 0, SimpleNamespace(name=b"Emulated GPU", major=8, minor=9)

    def _allocate(self, size: int) -> tuple[Any, ...]:
        if self.allocations == 0:
            return Status(2), None
        self.allocations -= 1
        block = (ctypes.c_uint8 * size)()
        self.memory[ctypes.addressof(block)] = block
        return 0, ctypes.addressof(block)

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:  # noqa: N802
        status, address = self._allocate(size)
        self.device.add(address)
        return status, address

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Any, ...]:  # noqa: N802
        return self._allocate(size)

    def cudaFree(self, address: int) -> tuple[int]:  # noqa: N802
        self.device.remove(address)
        del self.memory[address]
        return (0,)

    def cudaFreeHost(self, address: int) -> tuple[int]:  # noqa: N802
        del self.memory[address]
        return (0,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, int]:  # noqa: N802
        handle = len(self.streams) + 7
        self.streams[handle] = []
        return 0, handle

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:  # noqa: N802
        assert self.streams.pop(stream) == [], "a stream was destroyed with work in it"
        return (0,)

    def cudaMemcpyAsync(  # noqa: N802
        self, target: int, source: int, size: int, kind: int, stream: int
    ) -> tuple[int]:
        on_device = {HOST_TO_DEVICE: target, DEVICE_TO_HOST: source}[kind]
        assert on_device in self.device, "the copy's direction is wrong"
        assert size <= ctypes.sizeof(self.memory[target]), "the copy overruns its target"
        self.streams[stream].append(lambda: ctypes.memmove(target, source, size) and None)
        return (0,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:  # noqa: N802
        work, self.streams[stream] = self.streams[stream], []
        for step in work:
            step()
        return (0,)


class EmulatedContext:
    """Stands for IExecutionContext."""

    def __init__(self, cuda: EmulatedCuda, engine: EmulatedEngine) -> None:
        self.cuda, self.engine = cuda, engine
        self.addresses: dict[str, int] = {}
        self.shape: tuple[int, ...] = ()

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return address in self.cuda.device

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = tuple(shape)
        return 1 <= shape[0] <= self.engine.max_batch

    def execute_async_v3(self, stream: int) -> bool:
        shape = self.shape
        self.cuda.streams[stream].append(lambda: self._compute(shape))
        return True

    def _compute(self, shape: tuple[int, ...]) -> None:
        source = (ctypes.c_uint8 * int(np.prod(shape))).from_address(self.addresses["images"])
        frames = np.frombuffer(source, dtype=np.uint8).reshape(shape)
        scores = self.engine.session.run(["logits"], {"images": frames})[0]
        ctypes.memmove(self.addresses["logits"], scores.ctypes.data, scores.nbytes)


class EmulatedEngine:
    """Stands for ICudaEngine."""

    num_io_tensors = 2

    def __init__(self, cuda: EmulatedCuda, blob: bytes, max_batch: int) -> None:
        self.cuda, self.max_batch = cuda, max_batch
        self.session = onnxruntime.InferenceSession(blob, providers=["CPUExecutionProvider"])

    def get_tensor_name(self, index: int) -> str:
        return ("images", "logits")[index]

    def get_tensor_dtype(self, name: str) -> str:
        return {"images": "UINT8", "logits": "FLOAT"}[name]

    def create_execution_context(self) -> EmulatedContext:
        return EmulatedContext(self.cuda, self)


def emulated_tensorrt(cuda: EmulatedCuda, max_batch: int) -> Any:
    """Stands for the module `tensorrt`; an engine that starts with "bad" is refused."""

    class ILogger:
        ERROR, INTERNAL_ERROR, WARNING = range(3)

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, blob: bytes) -> EmulatedEngine | None:
            if blob.startswith(b"bad"):
                self.logger.log(ILogger.ERROR, "version tag does not match")
                return None
            return EmulatedEngine(cuda, blob, max_batch)

    return SimpleNamespace(
        __version__="10.99",
        ILogger=ILogger,
        Runtime=Runtime,
        DataType=SimpleNamespace(UINT8="UINT8", FLOAT="FLOAT"),
    )
