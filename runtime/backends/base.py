"""What a backend is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..manifest import EngineSpec

Progress = Callable[[str, int, int], None]
"""Called with what is being done, steps done, steps in all."""


External = Mapping[str, memoryview]
"""Contents of the files beside an ONNX graph that holds its weights there, by name."""
NONE: External = MappingProxyType({})


@dataclass(frozen=True)
class BuildOptions:
    """How to build an engine.

    Attributes:
        external: See `External`.
        compute_capabilities: GPUs to build for, as "8.9"; empty is the library's own choice
            (TensorRT: the GPU that is here; TensorRT for RTX: its portable set).
        timing_cache: Where full TensorRT keeps its timing cache, or None.
        progress: Is told of the build's progress, or None.
    """

    external: External = field(default_factory=dict)
    compute_capabilities: tuple[str, ...] = ()
    timing_cache: Path | None = None
    progress: Progress | None = None


class Session(Protocol):
    """An opened engine. Thread-safe."""

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 `[n, height, width, channels]` -> float32 `[n, outputs]`, with n inside the
        engine's profile.
        """

    def close(self) -> None:
        """Frees what the session holds. The session must not be used afterwards."""


class Backend(Protocol):
    """A library that runs engines.

    Making one imports nothing; its library is imported by the methods.
    """

    @property
    def name(self) -> str: ...

    @property
    def graph(self) -> str:
        """Which of a precision's ONNX graphs it takes: "cpu" or "gpu"."""

    @property
    def needs_engine(self) -> bool:
        """Whether an engine has to be built from the ONNX graph before it can run."""

    def version(self) -> str:
        """The library's version. Raises BackendError if it is not installed."""

    def device(self) -> str:
        """The device that it runs on, in words."""

    def built_for(self, options: BuildOptions) -> tuple[str, ...]:
        """The compute capabilities that `compile` builds for; empty: the library's portable set.

        Raises InputError for one that the library does not know.
        """

    def runs_engine_for(self, capabilities: tuple[str, ...]) -> bool:
        """Whether the device that is here is one of those."""

    def build_problem(self) -> str | None:
        """Why this machine cannot build engines for it, with the remedy; None if it can."""

    def run_problem(self) -> str | None:
        """Why this machine cannot run it, with the remedy; None if it can."""

    def compile(self, onnx: bytes, spec: EngineSpec, options: BuildOptions) -> bytes:
        """Builds an engine. Raises EngineError if the library refuses the graph."""

    def open(self, blob: bytes, spec: EngineSpec, external: External = NONE) -> Session:
        """Opens an engine (or the ONNX graph where none is needed).

        Raises EngineError if it is refused.
        """
