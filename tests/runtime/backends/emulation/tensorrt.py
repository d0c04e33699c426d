"""Stands for the modules `tensorrt`, `tensorrt_lean` and `tensorrt_rtx`. An "engine" is an ONNX
graph; one that starts with "bad" is refused.

Source: TensorRT Python API; TensorRT documentation, "CUDA Graphs"; TensorRT for RTX documentation,
"Working with Runtime Cache".
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import onnxruntime

from ..api import MODULE, Api
from .genuine import Checked, enumeration
from .machine import ALIGNMENT, Machine, Work

WORKING_MEMORY = 4096


@cache
def computation(blob: bytes) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(blob, providers=["CPUExecutionProvider"])


class EmulatedTensorRT:
    """The module, as the recording of a release shows it.

    Attributes:
        refuse: Names of methods that fail from now on.
    """

    def __init__(self, machine: Machine, api: Api, max_batch: int) -> None:
        self._machine, self._api, self._max_batch = machine, api, max_batch
        self.__version__ = api.version
        self.refuse: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        if not self._api.has(MODULE, name):
            raise AttributeError(f"{self._api.library} {self._api.version} has no {name}")
        found = self._make(name)
        setattr(self, name, found)
        return found

    def _make(self, name: str) -> Any:
        if name == "ILogger":
            members = self._api.classes[name]["members"]
            values = {key: value for key, value in members.items() if isinstance(value, int)}
            return type("ILogger", (), values)
        if name == "Runtime":
            return lambda logger: self.show("Runtime", Runtime(self, logger))
        if self._api.has(name) and self._api.enum(name):
            return enumeration(self._api, name)
        raise NotImplementedError(f"not emulated: {name}")

    def show(self, owner: str, emulated: Any) -> Checked:
        return Checked(self._api, owner, emulated)

    @property
    def captures_itself(self) -> bool:
        return self._api.has("CudaGraphStrategy")


class Runtime:
    engine_header_size = 64

    def __init__(self, library: EmulatedTensorRT, logger: Any) -> None:
        self.library, self.logger = library, logger
        self.engine_host_code_allowed = True

    def get_engine_validity(self, buffer: bytes) -> tuple[Any, int]:
        """Of TensorRT for RTX, which reads the header alone."""
        assert len(buffer) <= self.engine_header_size
        return None, int(self.library.EngineInvalidityDiagnostics.VERSION_MISMATCH)

    def deserialize_cuda_engine(self, blob: bytes) -> Checked | None:
        if self.engine_host_code_allowed:
            self.library._machine.note("an engine may bring code to run here")
        if blob.startswith(b"bad"):
            self.logger.log(self.library.ILogger.ERROR, "version tag does not match")
            return None
        engine = Engine(self, blob)
        self.library._machine.engines.add(engine)
        return self.library.show("ICudaEngine", engine)


class Engine:
    """ICudaEngine."""

    device_memory_size_v2 = WORKING_MEMORY

    def __init__(self, runtime: Runtime, blob: bytes) -> None:
        self.runtime, self.library = runtime, runtime.library
        self.session = computation(blob)
        self.outputs = tuple(output.name for output in self.session.get_outputs())
        self.num_io_tensors = 1 + len(self.outputs)
        self.key = f"{self.library.__version__}:{hash(blob)}"

    def get_tensor_name(self, index: int) -> str:
        return ("images", *self.outputs)[index]

    def get_tensor_dtype(self, name: str) -> Any:
        kinds = self.library.DataType
        return kinds.UINT8 if name == "images" else kinds.FLOAT

    def create_runtime_config(self) -> Checked:
        return self.library.show("IRuntimeConfig", RuntimeConfig(self.library))

    def create_execution_context(self, how: Any = None) -> Checked | None:
        machine = self.library._machine
        with machine.lock:
            if not machine.may_allocate():
                return None
        context = Context(self, how)
        machine.contexts.add(context)
        return self.library.show("IExecutionContext", context)


class RuntimeConfig:
    """IRuntimeConfig."""

    def __init__(self, library: EmulatedTensorRT) -> None:
        self.library = library
        self.cuda_graph_strategy: Any = 0
        self.kernels: RuntimeCache | None = None

    def create_runtime_cache(self) -> Checked:
        return self.library.show("IRuntimeCache", RuntimeCache(self.library.__version__))

    def set_runtime_cache(self, cache: Any = None) -> bool:
        self.kernels = cache
        return True


class RuntimeCache:
    """IRuntimeCache. Crashes on bytes that it did not write, as native code may."""

    def __init__(self, version: str) -> None:
        self.header = f"kernels of {version}:".encode()
        self.shapes: set[str] = set()

    def deserialize(self, blob: bytes) -> bool:
        if not blob.startswith(b"kernels of "):
            raise AssertionError("the library was given bytes that it never wrote")
        if not blob.startswith(self.header):
            return False
        self.shapes |= set(blob.removeprefix(self.header).decode().split())
        return True

    def serialize(self) -> memoryview:
        return memoryview(self.header + " ".join(sorted(self.shapes)).encode())


class Context:
    """IExecutionContext."""

    def __init__(self, engine: Engine, how: Any) -> None:
        self.engine, self.library = engine, engine.library
        self.machine = self.library._machine
        self.config = how if isinstance(how, RuntimeConfig) else None
        strategy = self.library.ExecutionContextAllocationStrategy
        self.brings_memory = how == strategy.USER_MANAGED
        self.memory: tuple[int, int] | None = None
        self.addresses: dict[str, int] = {}
        self.shape: tuple[int, ...] = ()
        self.version = 0  # counts changes: a graph is good for one version
        self.flushed = -1  # the version that the last plain execution ran
        self._busy = threading.Lock()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            self.machine.note("two threads used one execution context")
        try:
            yield
        finally:
            if self._busy.locked():
                self._busy.release()

    def set_device_memory(self, memory: int, size: int) -> None:
        self.memory = (memory, size)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        with self._alone():
            self.addresses[name] = memory
            self.version += 1
            return memory % ALIGNMENT == 0 and "set_tensor_address" not in self.library.refuse

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        with self._alone():
            self.shape = tuple(shape)
            self.version += 1
            return 1 <= shape[0] <= self.library._max_batch

    def execute_async_v3(self, stream_handle: int) -> bool:
        with self._alone(), self.machine.lock:
            if "execute_async_v3" in self.library.refuse:
                logger = self.engine.runtime.logger
                logger.log(self.library.ILogger.ERROR, "enqueueV3: internal\nerror")
                return False
            capture = self.machine.stream(stream_handle).capture
            if capture is not None and not self._can_be_captured():
                capture.valid = False
                return False
            if capture is None:
                self.flushed = self.version
            version, shape, addresses = self.version, self.shape, dict(self.addresses)
            run = self._pass(version, shape, addresses)
            self.machine.queue(stream_handle, Work("execute", run))
            return True

    def _can_be_captured(self) -> bool:
        """A change of shape has to be flushed by a plain execution first."""
        if self.library.captures_itself:
            self.machine.note("captured what TensorRT for RTX captures itself")
        return self.flushed == self.version and "capture" not in self.library.refuse

    def _pass(self, version: int, shape: tuple[int, ...], addresses: dict[str, int]) -> Any:
        def run() -> None:
            if self.version != version:
                self.machine.note("a context was changed under work or a graph of it")
            self._check_memory()
            source, names = addresses["images"], self.engine.outputs
            size = int(np.prod(shape))
            if not self.machine.require(source, size, ("device", "managed"), "input"):
                return
            frames = np.frombuffer((ctypes.c_uint8 * size).from_address(source), dtype=np.uint8)
            results = self.engine.session.run(names, {"images": frames.reshape(shape)})
            for name, values in zip(names, results, strict=True):
                if self.machine.require(addresses[name], values.nbytes, ("device",), name):
                    ctypes.memmove(addresses[name], values.ctypes.data, values.nbytes)
            if self.config is not None and self.config.kernels is not None:
                self.config.kernels.shapes.add(str(shape[0]))

        return run

    def _check_memory(self) -> None:
        if self.brings_memory:
            address, size = self.memory or (0, 0)
            if size < WORKING_MEMORY:
                self.machine.note("working memory is missing")
            self.machine.require(address, WORKING_MEMORY, ("device",), "working memory")
