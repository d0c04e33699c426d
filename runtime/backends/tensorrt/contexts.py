"""Execution contexts, each bound to one batch size and one input address, and their CUDA graphs.

A graph holds the shapes, the addresses and the context's own state at its capture. NVIDIA's advice
is one execution context per graph, all of them on the same working memory, which is followed here:
no context is changed while a graph of it lives.

Source: TensorRT documentation, "CUDA Graphs"; TensorRT for RTX documentation, "Working with RTX
CUDA Graphs" and "Working with Runtime Cache".
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from ...errors import EngineError
from .. import cuda
from ..base import BlobStore
from .runtime_cache import RuntimeCache

_log = logging.getLogger("vit_edge.tensorrt")

GRAPHS = 8
"""Contexts, hence graphs, that a lane keeps: the few batch sizes that an application uses, and the
few buffers of a camera on the GPU. The least recently used one is bound anew."""


class ContextSource(Protocol):
    """What is different about contexts in full TensorRT and in TensorRT for RTX."""

    compiled: RuntimeCache | None
    """What is compiled on the device, or None."""
    limit: int
    """How many contexts a lane has at most."""
    memory_size: int
    """Bytes of working memory that a lane has to bring."""
    captures: bool
    """Whether CUDA graphs are captured here; set to False once an engine turns out unable to."""

    def make(self, memory: cuda.DeviceBuffer) -> Any:
        """A context that works in `memory`. Raises EngineError if there is none to be had."""

    def close(self) -> None:
        """Lets go of the engine."""


class OwnGraphs:
    """Full TensorRT: contexts share the lane's working memory, and graphs are captured by us."""

    limit = GRAPHS
    compiled: RuntimeCache | None = None

    def __init__(self, library: Any, engine: Any) -> None:
        self._engine = engine
        self._strategy = library.ExecutionContextAllocationStrategy.USER_MANAGED
        self.memory_size = int(engine.device_memory_size_v2)
        self.captures = True

    def make(self, memory: cuda.DeviceBuffer) -> Any:
        context = _require(self._engine.create_execution_context(self._strategy))
        context.set_device_memory(memory.address, memory.size)
        return context

    def close(self) -> None:
        self._engine = None


class BuiltInGraphs:
    """TensorRT for RTX: one context, which captures graphs and recaptures them as it needs."""

    compiled: RuntimeCache | None
    limit = 1
    memory_size = 0

    def __init__(self, library: Any, engine: Any, scratch: BlobStore | None) -> None:
        self._engine, self._strategy = engine, library.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self.captures = False
        self.compiled = None
        if scratch is not None:
            self.compiled = RuntimeCache(engine.create_runtime_config(), scratch)

    def make(self, memory: cuda.DeviceBuffer) -> Any:
        runtime_config = self._engine.create_runtime_config()
        runtime_config.cuda_graph_strategy = self._strategy
        if self.compiled is not None:
            self.compiled.attach(runtime_config)
        return _require(self._engine.create_execution_context(runtime_config))

    def close(self) -> None:
        self._engine = self.compiled = None


def _require(context: Any) -> Any:
    if context is None:
        raise EngineError("no execution context: most likely the GPU is out of memory")
    return context


class Binding(NamedTuple):
    """What a context is bound to. `from_host`: the input is copied there from the host first."""

    shape: tuple[int, ...]
    address: int
    from_host: bool


@dataclass
class BoundContext:
    """A context on a binding. `warm`: it ran, as it must before it can be captured."""

    context: Any
    graph: cuda.Graph | None = None
    warm: bool = False

    def queue(
        self, stream: cuda.Stream, work: Callable[[Any], None], source: ContextSource
    ) -> None:
        """Queues `work` (which queues one pass of a context) on `stream`: as it is the first time,
        captured the second time, so that a size that comes once costs no capture, launched later.
        """
        if self.graph is None and self.warm and source.captures:
            self._capture(stream, work, source)
        if self.graph is not None:
            stream.launch(self.graph)
        else:
            work(self.context)
            self.warm = True

    def _capture(
        self, stream: cuda.Stream, work: Callable[[Any], None], source: ContextSource
    ) -> None:
        try:
            self.graph = stream.capture(lambda: work(self.context))
        except EngineError as error:  # loops, conditions, layers of data-dependent shapes
            source.captures = False
            # As text: a kept record with the error would keep the context, by its traceback.
            _log.warning("this engine runs without CUDA graphs: %s", str(error))

    def drop_graph(self) -> None:
        graph, self.graph = self.graph, None
        if graph is not None:
            graph.close()


class Contexts:
    """A lane's contexts. Not thread-safe; nothing of the lane is running when they are changed."""

    def __init__(self, source: ContextSource, bind: Callable[[Any, Binding], None]) -> None:
        self._source, self._bind, self._limit = source, bind, source.limit
        self._memory = cuda.DeviceBuffer(max(source.memory_size, 1))
        self._bound: OrderedDict[Binding, BoundContext] = OrderedDict()
        self._spare: list[Any] = []
        try:
            self._spare.append(source.make(self._memory))
        except BaseException:
            self._memory.close()
            raise

    def find(self, binding: Binding) -> BoundContext:
        """The context on that binding; if there is none, one is bound to it.

        Raises:
            EngineError: if TensorRT refuses the shape or the address.
        """
        found = self._bound.get(binding)
        if found is not None:
            self._bound.move_to_end(binding)
            return found
        context = self._unbound()
        try:
            self._bind(context, binding)
        except BaseException:
            self._spare.append(context)
            raise
        self._bound[binding] = BoundContext(context)
        return self._bound[binding]

    def _unbound(self) -> Any:
        if not self._spare and len(self._bound) < self._limit:
            try:
                return self._source.make(self._memory)
            except EngineError as error:
                self._limit = len(self._bound)
                _log.warning("going on with %d execution contexts: %s", self._limit, str(error))
        if self._spare:
            return self._spare.pop()
        _, oldest = self._bound.popitem(last=False)
        oldest.drop_graph()
        return oldest.context

    def close(self) -> None:
        """Graphs first, then contexts, then the memory that both use."""
        while self._bound:
            self._bound.popitem()[1].drop_graph()
        self._spare.clear()
        self._memory.close()
