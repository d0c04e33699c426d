"""Protocols of backends and their sessions, and what all backends share."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..device_array import DeviceArray
from ..errors import ResourceError
from ..manifest import EngineEntry, EngineSpec, Fact

Frames = NDArray[np.uint8] | DeviceArray
"""Contiguous uint8 `[n, height, width, channels]`, in host memory or on a GPU."""

Progress = Callable[[str, int, int], None]
"""Called with the name of a phase, its finished steps, and its total steps."""

ExternalData = Mapping[str, memoryview]
"""Contents of the files beside an ONNX graph that hold its weights, by file name."""
NO_EXTERNAL_DATA: ExternalData = MappingProxyType({})


@dataclass(frozen=True)
class RunVariant:
    """Way to run the same graph that differs from a backend's default one.

    Attributes:
        name: Description of the difference; unique among the variants of a candidate.
        settings: Fields of the backend's settings that are not the defaults; for an engine, the
            form of the graph that it was built from.
        gain: Speed as a multiple of the default's when it was kept; geometric mean over the
            measured batch sizes.
    """

    name: str
    settings: dict[str, Fact] = field(hash=False)
    gain: float = field(default=1.0, compare=False)


@dataclass(frozen=True)
class BuildOptions:
    """Options of a build.

    Attributes:
        external: See `ExternalData`.
        compute_capabilities: GPUs to build for, as "8.9"; empty is the library's own choice
            (TensorRT: the GPU that is here; TensorRT for RTX: its portable set).
        timing_caches: The folder where full TensorRT keeps its timing caches, or None.
        progress: Reports the build's progress, or None.
        what: Name of the graph in messages.
        max_aux_streams: Streams that an engine may use beside the main one; None is the library's
            own choice. Synchronising streams costs a ViT more than it gains.
        time_limit_s: Seconds that a build may take.
        stopped: Called repeatedly; the build stops once it returns true.
    """

    external: ExternalData = field(default_factory=dict)
    compute_capabilities: tuple[str, ...] = ()
    timing_caches: Path | None = None
    progress: Progress | None = None
    what: str = "this graph"
    max_aux_streams: int | None = 0
    time_limit_s: float = 7200.0
    stopped: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class AskedProduct:
    """Matrix product of an ONNX graph, and the types in which the graph asks for it.

    Attributes:
        node: The ONNX node's name.
        operands: The library's names of its operands' types; for a quantised operand the type
            before its DequantizeLinear.
        weights: True if its second operand is a constant.
    """

    node: str
    operands: tuple[str, ...]
    weights: bool

    def __post_init__(self) -> None:
        if len(self.operands) != 2:
            raise ValueError(f"a product of {len(self.operands)} operands is not possible")


@dataclass(frozen=True)
class Built:
    """Engine, with its builder's description of it.

    Attributes:
        engine: The bytes that `Backend.open` takes.
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
class BlobStore:
    """Store on this device for bytes that save a backend work at the next opening.

    Attributes:
        read: Returns the bytes, or None if there are none or they were altered.
        write: Replaces the bytes.
    """

    read: Callable[[], bytes | None]
    write: Callable[[bytes], None]


class Session(Protocol):
    """Opened engine. Thread-safe."""

    @property
    def takes_device_arrays(self) -> bool:
        """True if `run` and `stream` take frames that lie on a GPU."""

    @property
    def threads(self) -> int | None:
        """CPU threads that compute one call; None on a GPU."""

    def run(self, images: Frames) -> NDArray[np.float32]:
        """Runs uint8 `[n, height, width, channels]`, n inside the engine's profile; returns float32
        `[n, width]`: the outputs of an image side by side, in the order of `EngineSpec.outputs`.

        Raises:
            EngineError: if the session is closed or the library fails.
        """

    def stream(self, batches: Iterable[Frames]) -> Iterator[NDArray[np.float32]]:
        """Runs each of `batches` as `run` does, in order, while the next ones are fetched and
        copied. At most a few are in flight, so a slow reader holds back the source. Frames on a GPU
        must not change before their outputs are yielded.
        """

    def close(self) -> None:
        """Waits for running calls, then frees the session; later calls raise ClosedError. A stream
        under way ends with ClosedError at its next batch.
        """


@runtime_checkable
class DeviceTimed(Protocol):
    """Session that measures by the device's own clock."""

    def device_time_ms(self, images: Frames) -> float:
        """Runs as `Session.run` does; returns the milliseconds that the device took, copies from
        and to the host included.
        """


class Backend(Protocol):
    """Library that runs engines.

    Creating one imports nothing; the methods import the library.
    """

    @property
    def name(self) -> str: ...

    @property
    def graph(self) -> str:
        """Kind of a precision's ONNX graphs that it takes: "cpu" or "gpu"."""

    @property
    def lacks(self) -> tuple[str, ...]:
        """Precisions for whose graphs it has no kernels."""

    @property
    def needs_engine(self) -> bool:
        """True if an engine has to be built from the ONNX graph before it can run."""

    @property
    def opens_after_fork(self) -> bool:
        """True if a forked child can open sessions after its parent has opened some."""

    def version(self) -> str:
        """Returns the library's version. Raises BackendError if it is not installed."""

    def device(self) -> str:
        """Returns the name of the device that it runs on."""

    def built_for(self, options: BuildOptions) -> tuple[str, ...]:
        """Returns the compute capabilities that `compile` builds for; empty is the library's
        portable set.

        Raises InputError for one that the library does not know.
        """

    def builder_version(self) -> str:
        """Returns the version of the library that builds its engines. Raises BackendError if it is
        not installed.
        """

    def engine_problem(self, engine: EngineEntry) -> str | None:
        """Returns why a built engine does not open on this device, with the remedy; None if it
        does. Called only where `run_problem` returns None.
        """

    def build_problem(self) -> str | None:
        """Returns why this machine cannot build engines for it, with the remedy; None if it can."""

    def run_problem(self) -> str | None:
        """Returns why this machine cannot run it, with the remedy; None if it can."""

    def tuned(self, settings: Mapping[str, Fact]) -> Backend:
        """Returns this backend with settings in place of its defaults; its outputs stay the same
        except for rounding. Raises SchemaError for settings that it does not have.
        """

    def compile(self, onnx: bytes, spec: EngineSpec, options: BuildOptions) -> Built:
        """Builds an engine.

        Raises EngineError if the library refuses the graph, crashes or takes too long.
        """

    def open(
        self,
        blob: bytes,
        spec: EngineSpec,
        external: ExternalData = NO_EXTERNAL_DATA,
        scratch: BlobStore | None = None,
        threads: int | None = None,
    ) -> Session:
        """Opens an engine (or the ONNX graph where none is needed).

        Args:
            blob: The engine or the graph.
            spec: Its input and outputs.
            external: See `ExternalData`.
            scratch: Store for what an opening prepares for later ones; None keeps nothing.
            threads: CPU threads that compute; None for the machine's default. Not used on a GPU.

        Raises EngineError if it is refused, BackendError if this process cannot run it.
        """


class OnnxBackendMixin:
    """Part of `Backend` that is common to backends that run the ONNX graph itself."""

    needs_engine = False

    def version(self) -> str:
        raise NotImplementedError

    def run_problem(self) -> str | None:
        raise NotImplementedError

    def built_for(self, options: BuildOptions) -> tuple[str, ...]:
        return ()

    def builder_version(self) -> str:
        return self.version()

    def engine_problem(self, engine: EngineEntry) -> str | None:
        return None

    def build_problem(self) -> str | None:
        return self.run_problem()

    def compile(self, onnx: bytes, spec: EngineSpec, options: BuildOptions) -> Built:
        """Returns the graph as it is; opening compiles it."""
        return Built(onnx)


def write_out(path: Path, onnx: bytes, external: ExternalData) -> None:
    """Writes a graph to `path`, and its verified weights beside it."""
    for name, content in external.items():
        (path.parent / name).write_bytes(content)
    path.write_bytes(onnx)


@contextmanager
def written_out(onnx: bytes, external: ExternalData) -> Iterator[Path]:
    """Writes a graph and its verified weights to a private folder; yields the graph's path. For
    libraries that only find weights by a path.
    """
    import tempfile

    with ExitStack() as stack:
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="vit-edge-"))
            path = Path(folder) / "model.onnx"
            write_out(path, onnx, external)
        except OSError as error:
            raise no_scratch(error) from None
        yield path


def no_scratch(error: OSError) -> ResourceError:
    """Makes the error for temporary files that cannot be written."""
    return ResourceError(
        f"temporary files cannot be written ({error.strerror or error}): TMPDIR names another place"
    )


def give_back_freed() -> None:
    """Returns freed memory to the system; does nothing if the C library cannot.

    Opening an engine copies its weights several times. glibc keeps freed memory between blocks that
    stay in use: 60 to 150 MB for a ViT-B, for as long as the process runs. Takes 1 to 9 ms.

    Source: malloc_trim(3), glibc.
    """
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
    if trim is not None:
        trim(ctypes.c_size_t(0))
