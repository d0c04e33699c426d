"""Execution contexts, each bound to one batch size and one input address, and their CUDA graphs.

A graph holds the shapes, the addresses and the context's own state at its capture. NVIDIA's advice
is one execution context per graph, all of them on the same working memory, which is followed here:
no context is changed while a graph of it lives.

Source: TensorRT documentation, "CUDA Graphs"; TensorRT for RTX documentation, "Working with RTX
CUDA Graphs" and "Working with Runtime Cache"; TensorRT Python API (IExecutionContext,
IRuntimeConfig, IRuntimeCache).
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

import numpy as np

from ...errors import EngineError, first_line
from ...manifest import EngineSpec
from .. import cuda
from ..base import BlobStore
from .open import Library, RtxLibrary, require_context

if TYPE_CHECKING:
    import tensorrt as trt
    import tensorrt_rtx as rtx

_log = logging.getLogger("vit_edge.tensorrt")

MAX_CONTEXTS = 8
"""Contexts, and hence graphs, that a lane keeps: enough for an application's few batch sizes and a
camera's few buffers on the GPU. If more are needed, the least recently used one is bound anew."""


class ContextFactory(Protocol):
    """Creates the contexts of an engine, in full TensorRT or in TensorRT for RTX."""

    runtime_cache: RuntimeCache | None
    """Kernels compiled on this device, or None."""
    max_contexts: int
    """Contexts that a lane may have."""
    memory_size: int
    """Bytes of working memory that a lane has to bring."""
    captures: bool
    """True if CUDA graphs are captured here; becomes False once an engine turns out unable to."""

    def create(self, memory: cuda.DeviceBuffer) -> trt.IExecutionContext:
        """Creates a context that works in `memory`. Raises EngineError if TensorRT refuses."""


class TrtContextFactory:
    """Full TensorRT: contexts share the lane's working memory, and graphs are captured here."""

    max_contexts = MAX_CONTEXTS
    runtime_cache: RuntimeCache | None = None

    def __init__(self, library: Library, runtime: trt.Runtime, engine: trt.ICudaEngine) -> None:
        self._engine, self._runtime = engine, runtime  # freed in this order
        self._strategy = library.ExecutionContextAllocationStrategy.USER_MANAGED
        self.memory_size = int(engine.device_memory_size_v2)
        self.captures = True

    def create(self, memory: cuda.DeviceBuffer) -> trt.IExecutionContext:
        context = require_context(self._engine.create_execution_context(self._strategy))
        context.set_device_memory(memory.address, memory.size)
        return context


class RtxContextFactory:
    """TensorRT for RTX: one context, which captures graphs and recaptures them as needed."""

    max_contexts = 1
    memory_size = 0

    def __init__(
        self,
        library: RtxLibrary,
        runtime: trt.Runtime,
        engine: trt.ICudaEngine,
        scratch: BlobStore | None,
    ) -> None:
        rtx_engine = cast("rtx.ICudaEngine", engine)
        self._engine, self._runtime = rtx_engine, runtime  # freed in this order
        self._strategy = library.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self.captures = False
        self.runtime_cache: RuntimeCache | None = None
        if scratch is not None:
            self.runtime_cache = RuntimeCache(rtx_engine.create_runtime_config(), scratch)

    def create(self, memory: cuda.DeviceBuffer) -> trt.IExecutionContext:
        runtime_config = self._engine.create_runtime_config()
        runtime_config.cuda_graph_strategy = self._strategy
        if self.runtime_cache is not None:
            self.runtime_cache.attach(runtime_config)
        context = self._engine.create_execution_context(runtime_config)
        return require_context(cast("trt.IExecutionContext | None", context))


class RuntimeCache:
    """Kernels that TensorRT for RTX compiles on this device, kept for the next load.

    The library only gets bytes from `scratch`, which are verified. The cache outlives the contexts
    that use it.
    """

    def __init__(self, runtime_config: rtx.IRuntimeConfig, scratch: BlobStore) -> None:
        self._kernels, self._scratch = runtime_config.create_runtime_cache(), scratch
        data = scratch.read()
        if data is not None and not self._kernels.deserialize(data):
            _log.warning("the runtime cache is of another device or version: it starts anew")
            data = None
        self._digest = _digest(data or b"")
        self._device, self._lock = cuda.current_device(), threading.Lock()

    def attach(self, runtime_config: rtx.IRuntimeConfig) -> None:
        """Lets contexts of this configuration use it. Raises EngineError if TensorRT refuses."""
        if not runtime_config.set_runtime_cache(self._kernels):
            raise EngineError("the runtime cache was refused")

    def save(self) -> None:
        """Writes the kernels if there are new ones. A failure costs time at the next load and is
        only logged.
        """
        with self._lock:
            try:
                with cuda.on_device(self._device):
                    data = bytes(self._kernels.serialize())
            except Exception as error:  # the bindings' own types, and TypeError for None
                _log.warning("the runtime cache was not kept: %s", first_line(error))
                return
            if _digest(data) != self._digest:
                self._scratch.write(data)
                self._digest = _digest(data)


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


class Buffers:
    """Pinned host arrays and device memory for the largest batch.

    Raises:
        EngineError: if there is no memory for them.
    """

    def __init__(self, spec: EngineSpec) -> None:
        self._made: list[cuda.PinnedArray | cuda.DeviceBuffer] = []
        try:
            self.host_in = self._pinned((spec.max_batch, *spec.image_shape), np.uint8)
            sizes = [(spec.max_batch, output.size) for output in spec.outputs]
            self.host_out = [self._pinned(size, np.float32) for size in sizes]
            self.device_in = self._on_device(self.host_in.array.nbytes)
            self.device_out = [self._on_device(out.array.nbytes) for out in self.host_out]
        except BaseException:
            self.close()
            raise

    def _pinned(self, shape: tuple[int, ...], dtype: type[np.generic]) -> cuda.PinnedArray:
        array = cuda.PinnedArray(shape, dtype)
        self._made.append(array)
        return array

    def _on_device(self, size: int) -> cuda.DeviceBuffer:
        buffer = cuda.DeviceBuffer(size)
        self._made.append(buffer)
        return buffer

    def close(self) -> None:
        while self._made:
            self._made.pop().close()


class Binding(NamedTuple):
    """Input of a context. `from_host`: it is first copied to `address` from the host."""

    shape: tuple[int, ...]
    address: int
    from_host: bool


@dataclass
class _Bound:
    """Context on a binding. `warm`: it has run, which it must before it can be captured."""

    context: trt.IExecutionContext
    graph: cuda.CudaGraph | None = None
    warm: bool = False


class Contexts:
    """Contexts of a lane. Not thread-safe; they change only while nothing of the lane runs.

    Args:
        factory: Creates them.
        spec: Names and shapes of the engine's input and output.
        buffers: Memory that they read from and write to.

    Raises:
        EngineError: if there is no memory, or TensorRT refuses.
    """

    def __init__(self, factory: ContextFactory, spec: EngineSpec, buffers: Buffers) -> None:
        self._factory, self._spec, self._buffers = factory, spec, buffers
        self._limit = factory.max_contexts
        self._memory = cuda.DeviceBuffer(max(factory.memory_size, 1))
        self._bound: OrderedDict[Binding, _Bound] = OrderedDict()
        self._spare: list[trt.IExecutionContext] = []
        try:
            self._spare.append(factory.create(self._memory))
        except BaseException:
            self._memory.close()
            raise

    def enqueue(self, binding: Binding, stream: cuda.Stream) -> None:
        """Queues a pass over a binding: the first time without a graph, so that a size that occurs
        once costs no capture; the second time it is captured, and from then on launched as a graph.

        Raises:
            EngineError: if TensorRT refuses the shape or the address, or CUDA fails.
        """
        bound = self._bound.get(binding)
        if bound is None:
            bound = self._bind(binding)
        else:
            self._bound.move_to_end(binding)
        if bound.graph is None and bound.warm and self._factory.captures:
            self._capture(bound, binding, stream)
        if bound.graph is not None:
            stream.launch(bound.graph)
        else:
            self._queue(bound.context, binding, stream)
            bound.warm = True

    def _queue(self, context: trt.IExecutionContext, binding: Binding, stream: cuda.Stream) -> None:
        """Queues copies and kernels one by one."""
        buffers, count = self._buffers, binding.shape[0]
        if binding.from_host:
            stream.copy_to_device(buffers.device_in, buffers.host_in.array[:count])
        if not context.execute_async_v3(stream.handle):
            raise EngineError("execute_async_v3 failed")
        for host, device in zip(buffers.host_out, buffers.device_out, strict=True):
            stream.copy_to_host(host.array[:count], device)

    def _capture(self, bound: _Bound, binding: Binding, stream: cuda.Stream) -> None:
        try:
            bound.graph = stream.capture(lambda: self._queue(bound.context, binding, stream))
        except EngineError as error:  # loops, conditions, layers of data-dependent shapes
            self._factory.captures = False
            # As text: a log record with the error would keep the context alive by its traceback.
            _log.warning("this engine runs without CUDA graphs: %s", str(error))

    def _bind(self, binding: Binding) -> _Bound:
        context, spec = self._unbound(), self._spec
        places = [(spec.input_name, binding.address)]
        places += zip(spec.output_names, (o.address for o in self._buffers.device_out), strict=True)
        try:
            if not context.set_input_shape(spec.input_name, binding.shape):
                raise EngineError(
                    f"shape {binding.shape} is outside the engine's profile {spec.batch}"
                )
            for name, address in places:
                if not context.set_tensor_address(name, address):
                    raise EngineError(f"the address of {name!r} was refused")
        except BaseException:
            self._spare.append(context)
            raise
        self._bound[binding] = _Bound(context)
        return self._bound[binding]

    def _unbound(self) -> trt.IExecutionContext:
        """Returns a spare context, a new one, or the least recently used one."""
        if not self._spare and len(self._bound) < self._limit:
            try:
                return self._factory.create(self._memory)
            except EngineError as error:
                self._limit = len(self._bound)
                _log.warning("going on with %d execution contexts: %s", self._limit, str(error))
        if self._spare:
            return self._spare.pop()
        _, oldest = self._bound.popitem(last=False)
        _drop_graph(oldest)
        return oldest.context

    def close(self) -> None:
        """Frees graphs first, then contexts, then the memory that both use."""
        while self._bound:
            _drop_graph(self._bound.popitem()[1])
        self._spare.clear()
        self._memory.close()


def _drop_graph(bound: _Bound) -> None:
    graph, bound.graph = bound.graph, None
    if graph is not None:
        graph.close()
