"""Opened TensorRT engine: full TensorRT 10 and 11, lean, and TensorRT for RTX.

Source: TensorRT Python API (ICudaEngine).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from ...errors import ClosedError, EngineError
from ...manifest import EngineSpec
from .. import cuda
from ..base import BlobStore, Frames
from .contexts import ContextFactory, RtxContextFactory, TrtContextFactory
from .lanes import LanePool
from .open import Library, Logger, RtxLibrary, open_engine

if TYPE_CHECKING:
    import tensorrt as trt


class TensorRTSession:
    """See `runtime.backends.base.Session`. Runs on the device that is current when it opens.

    Args:
        library: TensorRT's Python module.
        logger: A new logger of the library.
        blob: The engine, whose hash was verified.
        spec: Input and output that the engine must have.
        scratch: Place for the runtime cache of TensorRT for RTX; None keeps none.

    Raises:
        EngineError: if the engine is refused or there is no memory for it.
    """

    takes_device_arrays = True
    threads: int | None = None

    def __init__(
        self,
        library: Library,
        logger: Logger,
        blob: bytes,
        spec: EngineSpec,
        scratch: BlobStore | None,
    ) -> None:
        runtime, engine = open_engine(library, logger, blob)
        _check_types(library, engine, spec)
        factory: ContextFactory
        if hasattr(library, "CudaGraphStrategy"):
            rtx_library = cast("RtxLibrary", library)
            factory = RtxContextFactory(rtx_library, runtime, engine, scratch)
        else:
            factory = TrtContextFactory(library, runtime, engine)
        self._runtime_cache, self._unsaved = factory.runtime_cache, True
        self._pool = LanePool(factory, spec, cuda.current_device(), logger.errors)

    def run(self, images: Frames) -> NDArray[np.float32]:
        lane = self._pool.take()
        try:
            scores = lane.run(images)
        finally:
            self._pool.give_back(lane)
        self._save_first_kernels()
        return scores

    def device_time_ms(self, images: Frames) -> float:
        """See `runtime.backends.base.DeviceTimed`."""
        lane = self._pool.take()
        try:
            return lane.device_time_ms(images)
        finally:
            self._pool.give_back(lane)

    def stream(self, batches: Iterable[Frames]) -> Iterator[NDArray[np.float32]]:
        """Copies and queues each batch while the previous one computes. The stream keeps a lane, in
        which a batch may wait for the reader; if none can be spared, it runs batch by batch.
        """
        kept = self._pool.keep()
        if kept is None:
            yield from map(self.run, batches)
            return
        try:
            queued = False
            for batch in batches:
                if not queued:
                    kept.enqueue(batch)
                    queued = True
                    continue
                try:
                    lane = self._pool.take()
                except ClosedError:
                    yield kept.collect()
                    raise
                try:
                    lane.enqueue(batch)
                    kept, lane = lane, kept
                    scores = lane.collect()
                finally:
                    self._pool.give_back(lane)
                self._save_first_kernels()
                yield scores
            if queued:
                yield kept.collect()
        finally:  # the reader may leave early, the source may raise
            kept.settle()
            self._pool.release(kept)

    def _save_first_kernels(self) -> None:
        """Saves the runtime cache after the first outputs, because many applications are killed
        rather than closed.
        """
        if self._unsaved:
            self._unsaved = False
            self._save_kernels()

    def _save_kernels(self) -> None:
        cache = self._runtime_cache  # another thread may close the session meanwhile
        if cache is not None:
            cache.save()

    def close(self) -> None:
        self._pool.close()
        self._save_kernels()
        self._runtime_cache = None


def _check_types(library: Library, engine: trt.ICudaEngine, spec: EngineSpec) -> None:
    expected = dict.fromkeys(spec.output_names, library.DataType.FLOAT)
    expected[spec.input_name] = library.DataType.UINT8
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    types = {name: engine.get_tensor_dtype(name) for name in names}
    if types != expected:
        raise EngineError(f"its tensors are {types}, the manifest says {expected}")
