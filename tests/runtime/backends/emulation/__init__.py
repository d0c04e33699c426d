"""An emulated GPU with TensorRT: ONNX Runtime computes, in memory that stands for a device's.

What it is strict about is what is hard to see on a real one:
- Work is deferred until somebody waits for it, each stream on its own, so that a missing wait shows
  as a wrong answer. Memory that a copy will fill is filled with garbage when the copy is queued.
- Every name, argument and property is held against a recording of the genuine libraries.
- Freed memory is poisoned; using it, copying to the wrong side, changing a context under its graph,
  and everything else that real hardware answers with rare crashes, is noted in `violations`.
- The n-th allocation of any kind can be made to fail.

    gpu = EmulatedGpu()
    runtime = gpu.cuda()                            # stands for cuda.bindings.runtime
    library = gpu.tensorrt("tensorrt", "11.4.0", max_batch=4)
    ...
    assert gpu.problems() == []                     # no violations, nothing leaked
"""

from __future__ import annotations

from typing import Any

from ..api import recorded
from .cuda import EmulatedCuda
from .frames import LEGACY, GpuFrames, producer_stream
from .machine import Machine
from .tensorrt import EmulatedTensorRT

__all__ = ["LEGACY", "EmulatedGpu", "GpuFrames", "producer_stream"]


class EmulatedGpu(Machine):
    """See the package."""

    def cuda(self, version: str = "13.5.0") -> Any:
        return EmulatedCuda(self, recorded("cuda_bindings", version))

    def tensorrt(self, name: str, version: str, max_batch: int) -> Any:
        return EmulatedTensorRT(self, recorded(name, version), max_batch)
