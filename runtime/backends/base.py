"""What a backend is."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..device_array import DeviceArray
from ..manifest import EngineEntry, EngineSpec

Frames = NDArray[np.uint8] | DeviceArray
"""Contiguous uint8 `[n, height, width, channels]`, in host memory or on a GPU."""

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
        timing_caches: The folder where full TensorRT keeps its timing caches, or None.
        progress: Is told of the build's progress, or None.
        what: What is built, for messages.
        max_aux_streams: How many streams beside the main one an engine may use; None is the
            library's own choice. Waiting for each other costs a ViT more than it gains.
        time_limit_s: Seconds that a build may take.
        stopped: Asked now and then whether to stop.
    """

    external: External = field(default_factory=dict)
    compute_capabilities: tuple[str, ...] = ()
    timing_caches: Path | None = None
    progress: Progress | None = None
    what: str = "this graph"
    max_aux_streams: int | None = 0
    time_limit_s: float = 7200.0
    stopped: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class AskedProduct:
    """A matrix product of an ONNX graph, and the types that the graph asks it to multiply.

    Attributes:
        node: The ONNX node's name.
        operands: The library's names of its operands' types, of a quantised one the type before its
            DequantizeLinear.
        weights: Whether its second operand is a constant.
    """

    node: str
    operands: tuple[str, ...]
    weights: bool

    def __post_init__(self) -> None:
        if len(self.operands) != 2:
            raise ValueError(f"a product of {len(self.operands)} operands is not possible")


@dataclass(frozen=True)
class Built:
    """An engine and what its builder told of it.

    Attributes:
        engine: What `Backend.open` takes.
        listing: The builder's or the inspector's description of the engine's layers; "" where the
            library has none.
        products: The graph's matrix products, as the library's parser reads them.
        peak_bytes: The most memory that the build held; 0 where it was not measured.
    """

    engine: bytes
    listing: str = ""
    products: tuple[AskedProduct, ...] = ()
    peak_bytes: int = 0


@dataclass(frozen=True)
class Scratch:
    """Where a backend keeps, on this device, bytes that spare it work at the next opening.

    Attributes:
        read: What was kept, if it is there and unaltered.
        write: Keeps bytes in its place.
    """

    read: Callable[[], bytes | None]
    write: Callable[[bytes], None]


class Session(Protocol):
    """An opened engine. Thread-safe."""

    @property
    def takes_device_arrays(self) -> bool:
        """Whether `run` and `stream` take frames that lie on a GPU."""

    def run(self, images: Frames) -> NDArray[np.float32]:
        """uint8 `[n, height, width, channels]` -> float32 `[n, outputs]`, with n inside the
        engine's profile.

        Raises:
            EngineError: if the session is closed or the library fails.
        """

    def stream(self, batches: Iterable[Frames]) -> Iterator[NDArray[np.float32]]:
        """Answers each of `batches` as `run` does, in order, while the next ones are fetched and
        copied. At most a few are in flight: a slow reader holds back the source. Frames on a GPU
        stay unchanged until they are answered.
        """

    def close(self) -> None:
        """Waits for what runs, then frees what the session holds; later calls raise EngineError."""


@runtime_checkable
class DeviceTimed(Protocol):
    """A session that can tell the device's time from the time of the whole call."""

    def device_time_ms(self, images: Frames) -> float:
        """Runs as `Session.run` does; returns the milliseconds that the device took by its own
        clock, copies from and to the host included.
        """


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
    def lacks(self) -> tuple[str, ...]:
        """Precisions whose graphs it has no kernels for."""

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

    def builder_version(self) -> str:
        """The version of the library that builds its engines. Raises BackendError likewise."""

    def engine_problem(self, engine: EngineEntry) -> str | None:
        """Why an engine that is built already does not open on this device, with the remedy; None
        if it does. Asked only where `run_problem` has none.
        """

    def build_problem(self) -> str | None:
        """Why this machine cannot build engines for it, with the remedy; None if it can."""

    def run_problem(self) -> str | None:
        """Why this machine cannot run it, with the remedy; None if it can."""

    def compile(self, onnx: bytes, spec: EngineSpec, options: BuildOptions) -> Built:
        """Builds an engine.

        Raises EngineError if the library refuses the graph, crashes or takes too long.
        """

    def open(
        self,
        blob: bytes,
        spec: EngineSpec,
        external: External = NONE,
        scratch: Scratch | None = None,
    ) -> Session:
        """Opens an engine (or the ONNX graph where none is needed).

        Raises EngineError if it is refused.
        """


def give_back_freed() -> None:
    """Hands freed memory back; does nothing where the C library cannot.

    Opening an engine copies its weights several times. glibc keeps what is freed between blocks
    that live on: 60 to 150 MB of a ViT-B, for as long as the process runs. Takes 1 to 9 ms.

    Source: malloc_trim(3), glibc.
    """
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
    if trim is not None:
        trim(ctypes.c_size_t(0))
