"""TensorRT 10 and 11 and TensorRT for RTX: one implementation.

Precision is in the graph (strongly typed networks), so building knows nothing of it. Where the
libraries differ, a feature is asked for by its attribute, never by a version. The libraries crash
on bytes that are not an engine: callers pass only bytes whose hash they verified.

Source: TensorRT Python API (Runtime, ICudaEngine, IExecutionContext).
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BackendError, ClosedError, EngineError, InputError
from ..manifest import EngineSpec
from . import cuda
from .base import NONE, BuildOptions, External, Frames
from .streaming import stream_in_thread
from .tensorrt_build import build_plan, find_compute_capability

_log = logging.getLogger("vit_edge.tensorrt")


@dataclass(frozen=True)
class TensorRT:
    """See `runtime.backends.base.Backend`. `module_name` is the Python module of the library."""

    name: str
    module_name: str
    graph: str = "gpu"
    needs_engine: bool = True

    def _library(self) -> Any:
        try:
            return importlib.import_module(self.module_name)
        except (
            ImportError,
            OSError,
        ):  # OSError: the bindings are there and their libraries are not
            raise BackendError(
                f"{self.module_name} is not installed: pip install 'vit-edge[{self.name}]'"
            ) from None

    def version(self) -> str:
        return str(self._library().__version__)

    def device(self) -> str:
        return cuda.device_name()

    def built_for(self, options: BuildOptions) -> tuple[str, ...]:
        """Full TensorRT builds for the GPU that is here; RTX, if not told, for its portable set."""
        library, asked = self._library(), options.compute_capabilities
        for capability in asked:
            find_compute_capability(library, capability)
        if asked or hasattr(library, "ComputeCapability"):
            return asked
        return (cuda.compute_capability(),)

    def runs_engine_for(self, capabilities: tuple[str, ...]) -> bool:
        return not capabilities or cuda.compute_capability() in capabilities

    def build_problem(self) -> str | None:
        try:
            library = self._library()
        except BackendError as error:
            return str(error)
        # Only TensorRT for RTX, known by its target setting, builds ahead of time without a GPU.
        return None if hasattr(library, "ComputeCapability") else cuda.device_problem()

    def run_problem(self) -> str | None:
        try:
            self._library()
        except BackendError as error:
            return str(error)
        return cuda.device_problem()

    def compile(self, onnx: bytes, spec: EngineSpec, options: BuildOptions) -> bytes:
        library, messages = self._library(), list[str]()
        what = f"{self.name} {self.version()} cannot build this graph"
        with _errors_as_engine_errors(what, messages):
            logger = _logger(library, messages)
            return build_plan(library, logger, onnx, spec, options, messages)

    def open(self, blob: bytes, spec: EngineSpec, external: External = NONE) -> TensorRTSession:
        library, messages = self._library(), list[str]()
        with _errors_as_engine_errors(
            f"{self.name} {self.version()} cannot open this engine", messages
        ):
            return TensorRTSession(library, _logger(library, messages), blob, spec)


def _logger(library: Any, messages: list[str]) -> Any:
    """A TensorRT logger that keeps errors for our message and passes the rest to `logging`."""

    class Logger(library.ILogger):  # type: ignore[misc]
        def log(self, severity: Any, message: str) -> None:
            if severity in (library.ILogger.ERROR, library.ILogger.INTERNAL_ERROR):
                messages.append(message)
            elif severity == library.ILogger.WARNING:
                _log.info("%s", message)
            else:
                _log.debug("%s", message)

    return Logger()


@contextmanager
def _errors_as_engine_errors(what: str, messages: list[str]) -> Iterator[None]:
    try:
        yield
    except (BackendError, InputError, MemoryError):
        raise
    except Exception as error:  # the bindings raise RuntimeError, TypeError and their own
        detail = "; ".join([str(error), *messages[:3]])
        raise EngineError(f"{what}: {' '.join(detail.split())[:500]}") from None


class TensorRTSession:
    """See `runtime.backends.base.Session`.

    One execution context and one stream, with pinned host and device buffers for the largest batch,
    allocated once. A lock makes it thread-safe.
    """

    takes_device_arrays = False

    def __init__(self, library: Any, logger: Any, blob: bytes, spec: EngineSpec) -> None:
        self._spec, self._lock, self._logger = spec, threading.Lock(), logger
        self._resources: list[Any] = []
        self._runtime = library.Runtime(logger)
        self._engine = self._runtime.deserialize_cuda_engine(blob)
        if self._engine is None:
            raise EngineError(
                "it was built by another version or for another GPU: `vit-edge build` makes "
                "one here"
            )
        self._check_types(library)
        self._context = self._create_context(library)
        try:
            self._allocate()
        except BaseException:
            self.close()
            raise

    def _check_types(self, library: Any) -> None:
        wanted = {
            self._spec.input_name: library.DataType.UINT8,
            self._spec.output_name: library.DataType.FLOAT,
        }
        found = {
            name: self._engine.get_tensor_dtype(name)
            for name in (
                self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)
            )
        }
        if found != wanted:
            raise EngineError(f"its tensors are {found}, the manifest says {wanted}")

    def _create_context(self, library: Any) -> Any:
        if hasattr(library, "CudaGraphStrategy"):  # TensorRT for RTX captures CUDA graphs itself
            config = self._engine.create_runtime_config()
            config.cuda_graph_strategy = library.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            context = self._engine.create_execution_context(config)
        else:
            context = self._engine.create_execution_context()
        if context is None:
            raise EngineError("no execution context: most likely the GPU is out of memory")
        return context

    def _allocate(self) -> None:
        spec, batch = self._spec, self._spec.max_batch
        self._stream = self._keep(cuda.Stream())
        self._host_in = self._keep(cuda.PinnedArray((batch, *spec.image_shape), np.uint8))
        self._host_out = self._keep(cuda.PinnedArray((batch, spec.outputs), np.float32))
        self._device_in = self._keep(cuda.DeviceBuffer(self._host_in.array.nbytes))
        self._device_out = self._keep(cuda.DeviceBuffer(self._host_out.array.nbytes))
        for name, buffer in (
            (spec.input_name, self._device_in),
            (spec.output_name, self._device_out),
        ):
            if not self._context.set_tensor_address(name, buffer.address):
                raise EngineError(f"the address of {name!r} was refused")

    def _keep(self, resource: Any) -> Any:
        self._resources.append(resource)
        return resource

    def run(self, images: Frames) -> NDArray[np.float32]:
        with self._lock:
            if self._context is None:
                raise ClosedError()
            host_in = self._host_in.array[: len(images)]
            host_out = self._host_out.array[: len(images)]
            np.copyto(host_in, images)  # type: ignore[arg-type]
            if not self._context.set_input_shape(self._spec.input_name, images.shape):
                raise EngineError(
                    f"shape {images.shape} is outside the engine's profile {self._spec.batch}"
                )
            self._stream.copy_to_device(self._device_in, host_in)
            if not self._context.execute_async_v3(self._stream.handle):
                raise EngineError("execute_async_v3 failed: see the log of TensorRT")
            self._stream.copy_to_host(host_out, self._device_out)
            self._stream.synchronize()
            scores: NDArray[np.float32] = host_out.copy()
            return scores

    def stream(self, batches: Iterable[Frames]) -> Iterator[NDArray[np.float32]]:
        return stream_in_thread(self.run, batches)

    def close(self) -> None:
        with self._lock:
            self._context = None
            while self._resources:
                self._resources.pop().close()
            self._engine = self._runtime = None
