"""An opened TensorRT engine: full TensorRT 10 and 11, lean, and TensorRT for RTX.

Source: TensorRT Python API (ICudaEngine).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import EngineError
from ...manifest import EngineSpec
from .. import cuda
from ..base import BlobStore, Frames
from ..threads import IN_FLIGHT
from .contexts import BuiltInGraphs, ContextSource, OwnGraphs
from .lanes import Lane
from .open import Logger, open_engine
from .pool import LanePool, Pending


class TensorRTSession:
    """See `runtime.backends.base.Session`. Runs on the device that is current when it opens.

    Args:
        library: TensorRT's Python module.
        blob: The engine, whose hash was verified.
        spec: What the engine has to take and give.
        scratch: Where TensorRT for RTX keeps its runtime cache; None is nowhere.

    Raises:
        EngineError: if the engine is refused or there is no memory for it.
    """

    takes_device_arrays = True

    def __init__(
        self, library: Any, logger: Logger, blob: bytes, spec: EngineSpec, scratch: BlobStore | None
    ) -> None:
        device = cuda.current_device()
        self._runtime, self._engine = open_engine(library, logger, blob)
        _check_types(library, self._engine, spec)
        self._source = _choose_source(library, self._engine, scratch)
        self._unsaved = True
        self._pool = LanePool(lambda: Lane(self._source, spec, device, logger.errors))

    def run(self, images: Frames) -> NDArray[np.float32]:
        scores = self._pool.run(images)
        self._keep_compiled()
        return scores

    def device_time_ms(self, images: Frames) -> float:
        """See `runtime.backends.base.DeviceTimed`."""
        return self._pool.device_time_ms(images)

    def stream(self, batches: Iterable[Frames]) -> Iterator[NDArray[np.float32]]:
        """Each batch is copied and queued on a lane of its own while the one before it computes."""
        waiting: deque[Pending] = deque()
        try:
            for batch in batches:
                waiting.append(self._pool.submit(batch))
                if len(waiting) >= IN_FLIGHT:
                    yield waiting.popleft().result()
                    self._keep_compiled()
            while waiting:
                yield waiting.popleft().result()
        finally:  # the reader may leave early, the source may raise
            for pending in waiting:
                pending.finish()

    def _keep_compiled(self) -> None:
        """Saves the runtime cache after the first answer: many an application is killed rather than
        closed.
        """
        if self._unsaved:
            self._unsaved = False
            self._save_compiled()

    def _save_compiled(self) -> None:
        compiled = self._source.compiled  # another thread may close the session meanwhile
        if compiled is not None:
            compiled.save()

    def close(self) -> None:
        self._pool.close()
        self._save_compiled()
        self._source.close()
        self._engine = self._runtime = None


def _check_types(library: Any, engine: Any, spec: EngineSpec) -> None:
    wanted = {spec.input_name: library.DataType.UINT8, spec.output_name: library.DataType.FLOAT}
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    found = {name: engine.get_tensor_dtype(name) for name in names}
    if found != wanted:
        raise EngineError(f"its tensors are {found}, the manifest says {wanted}")


def _choose_source(library: Any, engine: Any, scratch: BlobStore | None) -> ContextSource:
    if hasattr(library, "CudaGraphStrategy"):
        return BuiltInGraphs(library, engine, scratch)
    return OwnGraphs(library, engine)
