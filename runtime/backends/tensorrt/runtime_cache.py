"""The kernels that TensorRT for RTX compiles on the device, kept for the next load.

Source: TensorRT for RTX documentation, "Working with Runtime Cache"; Python API (IRuntimeConfig,
IRuntimeCache).
"""

from __future__ import annotations

import hashlib
import logging
import threading
from typing import Any

from ...errors import EngineError, first_line
from .. import cuda
from ..base import BlobStore

_log = logging.getLogger("vit_edge.tensorrt")


class RuntimeCache:
    """A cache of compiled kernels, filled from `scratch`, which keeps what is compiled since.

    `scratch` hands out bytes that it verified: the library is told of no others. Outlives the
    contexts that use it.
    """

    def __init__(self, runtime_config: Any, scratch: BlobStore) -> None:
        self._kernels, self._scratch = runtime_config.create_runtime_cache(), scratch
        kept = scratch.read()
        if kept is not None and not self._kernels.deserialize(kept):
            _log.warning("the runtime cache is of another device or version: it starts anew")
            kept = None
        self._digest = _digest(kept or b"")
        self._device, self._lock = cuda.current_device(), threading.Lock()

    def attach(self, runtime_config: Any) -> None:
        """Lets contexts of this configuration use it. Raises EngineError if TensorRT refuses."""
        if not runtime_config.set_runtime_cache(self._kernels):
            raise EngineError("the runtime cache was refused")

    def save(self) -> None:
        """Keeps what was compiled, if there is anything new. Failing costs time, so it is told to
        the log alone.
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
