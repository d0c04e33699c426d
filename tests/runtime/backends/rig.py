"""An emulated GPU behind the real TensorRT backend."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from vit_edge.runtime.backends import BlobStore, cuda
from vit_edge.runtime.backends.tensorrt import TensorRT
from vit_edge.runtime.backends.tensorrt.session import TensorRTSession
from vit_edge.runtime.device_array import DeviceArray, take_device_array
from vit_edge.runtime.manifest import EngineSpec

from .emulation import EmulatedGpu, GpuFrames
from .tiny import MAX_BATCH, SPEC, tiny_graph

FLAVOURS = {
    "10": ("tensorrt", "10.3.0", "12.8.0"),
    "11": ("tensorrt", "11.4.0", "13.5.0"),
    "lean": ("tensorrt_lean", "11.4.0", "13.5.0"),
    "rtx": ("tensorrt_rtx", "1.7.1", "13.5.0"),
}
"""Library, its version, that of cuda-bindings."""


@dataclass
class Rig:
    """A GPU, TensorRT and CUDA of one flavour."""

    gpu: EmulatedGpu
    library: Any
    cuda: Any
    frames: list[GpuFrames] = field(default_factory=list)

    @property
    def captures_itself(self) -> bool:
        return hasattr(self.library, "CudaGraphStrategy")

    def open(
        self, blob: bytes | None = None, spec: EngineSpec = SPEC, scratch: BlobStore | None = None
    ) -> TensorRTSession:
        backend = TensorRT("emulated", module_name="emulated")
        return backend.open(tiny_graph() if blob is None else blob, spec, scratch=scratch)

    def on_gpu(self, frames: np.ndarray, **where: Any) -> GpuFrames:
        self.frames.append(GpuFrames(self.gpu, frames, **where))
        return self.frames[-1]

    def array(self, frames: np.ndarray, **where: Any) -> DeviceArray:
        return self.seen(self.on_gpu(frames, **where))

    def seen(self, frames: GpuFrames) -> DeviceArray:
        """As the engine sees them."""
        array = take_device_array(frames)
        assert array is not None
        return array

    def count(self, name: str) -> int:
        return self.gpu.trace.count(name)

    def kinds(self, kind: str) -> int:
        return sum(found == kind for found, _ in self.gpu.resources.values())

    def problems(self) -> list[str]:
        """After everything was closed."""
        for frames in self.frames:
            frames.free()
        self.frames.clear()
        if len(self.gpu.contexts):
            gc.collect()
        return self.gpu.problems()


def make_rig(monkeypatch: pytest.MonkeyPatch, flavour: str, max_batch: int = MAX_BATCH) -> Rig:
    name, version, cuda_version = FLAVOURS[flavour]
    gpu = EmulatedGpu()
    runtime = gpu.cuda(cuda_version)
    library = gpu.tensorrt(name, version, max_batch)
    monkeypatch.setattr(cuda, "_runtime", lambda: runtime)
    monkeypatch.setattr(TensorRT, "_library", lambda self: library)
    return Rig(gpu, library, runtime)


@pytest.fixture(params=FLAVOURS)
def rig(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """In every flavour; what it holds against the code is told at the end."""
    made = make_rig(monkeypatch, request.param)
    yield made
    assert not (problems := made.problems()), problems


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """Full TensorRT, for what is the same in all."""
    made = make_rig(monkeypatch, "11")
    yield made
    assert not (problems := made.problems()), problems


@pytest.fixture
def rtx(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """TensorRT for RTX."""
    made = make_rig(monkeypatch, "rtx")
    yield made
    assert not (problems := made.problems()), problems
