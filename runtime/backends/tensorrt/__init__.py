"""TensorRT 10 and 11, TensorRT for RTX and TensorRT lean: one implementation.

The graph determines the precision (strongly typed networks), so the build does not. Where the
libraries differ, a feature is detected by its attribute, never by a version. The libraries crash
on bytes that are not an engine: callers pass only bytes whose hash they verified.

Source: TensorRT Python API (ILogger).
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from ...errors import BackendError, EngineError, InputError, engine_error, install_command
from ...manifest import EngineEntry, EngineSpec, Fact
from .. import cuda
from ..base import NO_EXTERNAL_DATA, BlobStore, BuildOptions, Built, ExternalData
from ..process import keep_in_children
from .open import Library, Logger, make_logger, mismatch, opens_forward

if TYPE_CHECKING:
    import tensorrt as trt

    from .build import FullLibrary
    from .session import TensorRTSession

_log = logging.getLogger("vit_edge.tensorrt")

VERSION_COMPATIBLE = "VERSION_COMPATIBLE"
"""Builder flag of engines that newer libraries open too."""


@dataclass(frozen=True)
class TensorRT:
    """See `runtime.backends.base.Backend`.

    Attributes:
        module_name: The library's Python module.
        builder_name: The backend whose library builds the engines; empty if it is this one.
        builder_flags: Builder flags that its engines need.
    """

    name: str
    module_name: str
    builder_name: str = ""
    builder_flags: tuple[str, ...] = ()
    graph: str = "gpu"
    lacks: tuple[str, ...] = ()
    needs_engine: bool = True
    opens_after_fork: bool = False

    def _library(self) -> Library:
        return _import(self.module_name, self.name)

    def _builder(self) -> FullLibrary:
        """Returns the library that builds: TensorRT lean only runs."""
        if self.builder_name:
            return _import(self.builder_name, self.builder_name)
        return cast("FullLibrary", self._library())

    def version(self) -> str:
        return str(self._library().__version__)

    def builder_version(self) -> str:
        return str(self._builder().__version__)

    def device(self) -> str:
        return cuda.device_name()

    def built_for(self, options: BuildOptions) -> tuple[str, ...]:
        """Returns the capabilities in `options`; if there are none, that of this GPU for full
        TensorRT, and none, which means the portable set, for RTX.
        """
        from .build import find_compute_capability

        library, capabilities = self._builder(), options.compute_capabilities
        for capability in capabilities:
            find_compute_capability(library, capability)
        if capabilities or _builds_without_gpu(library):
            return capabilities
        return (cuda.compute_capability(),)

    def known_capabilities(self) -> tuple[str, ...]:
        """Returns every compute capability that it can build for: that of this GPU, for full
        TensorRT.
        """
        from .build import known_capabilities

        library = self._builder()
        if _builds_without_gpu(library):
            return known_capabilities(library)
        return (cuda.compute_capability(),)

    def engine_problem(self, engine: EngineEntry) -> str | None:
        version, capability = self.version(), cuda.compute_capability()
        forward = VERSION_COMPATIBLE in self.builder_flags
        known = opens_forward(engine.version, version) if forward else engine.version == version
        if known and (not engine.compute_capabilities or capability in engine.compute_capabilities):
            return None
        return (
            f"{mismatch(engine, self.name, version, capability)}: "
            f"`vit-edge build BUNDLE --target {self.name}`"
        )

    def build_problem(self) -> str | None:
        try:
            library = self._builder()
        except BackendError as error:
            return (
                f"{error} (it builds the engines of {self.name})"
                if self.builder_name
                else str(error)
            )
        problem = None if _builds_without_gpu(library) else cuda.device_problem()
        return problem or self._too_old_for(library)

    def _too_old_for(self, builder: FullLibrary) -> str | None:
        """Returns why the library here cannot run engines of `builder`; None if it can, or if it is
        not installed and they run elsewhere.
        """
        try:
            here, built_by = self.version(), str(builder.__version__)
        except BackendError:
            return None
        if not self.builder_name or opens_forward(built_by, here):
            return None
        return (
            f"{self.name} {here} is too old for what {self.builder_name} {built_by} builds: "
            f"{install_command(self.name).replace('install', 'install -U')}"
        )

    def run_problem(self) -> str | None:
        try:
            self._library()
        except BackendError as error:
            return str(error)
        return cuda.device_problem()

    def tuned(self, settings: Mapping[str, Fact]) -> TensorRT:
        """Returns itself: variants differ only in the engine."""
        return self

    def compile(self, onnx: bytes, spec: EngineSpec, options: BuildOptions) -> Built:
        from .build import find_compute_capability, timing_file  # loaded for builds alone
        from .child import BuildJob
        from .process import build_in_child

        library = self._builder()
        timings, device = "", None
        if not self.builds_without_gpu:  # TensorRT for RTX has no use for timings
            device = cuda.current_device()
            if options.timing_caches is not None:
                name, version = library.__name__, self.builder_version()
                folder = options.timing_caches
                timings = str(timing_file(folder, name, version, cuda.device_name()))
        for capability in options.compute_capabilities:
            find_compute_capability(library, capability)
        job = BuildJob(
            library.__name__,
            device,
            spec,
            options.compute_capabilities,
            self.builder_flags,
            timings,
            options.max_aux_streams,
        )
        try:
            return build_in_child(job, onnx, options)
        except EngineError as error:
            name = f"{self.name} {self.builder_version()}"
            raise engine_error(f"{name} cannot build {options.what}: {error}", error) from None

    @property
    def builds_without_gpu(self) -> bool:
        """True if any machine builds engines. Raises BackendError without the library."""
        return _builds_without_gpu(self._builder())

    def open(
        self,
        blob: bytes,
        spec: EngineSpec,
        external: ExternalData = NO_EXTERNAL_DATA,
        scratch: BlobStore | None = None,
        threads: int | None = None,
    ) -> TensorRTSession:
        from .session import TensorRTSession

        library, messages = self._library(), list[str]()
        cuda.require_own_process()
        with _errors_as_engine_errors(
            f"{self.name} {self.version()} cannot open this engine", messages
        ):
            session = TensorRTSession(library, _logger(library, messages), blob, spec, scratch)
        return keep_in_children(session)

    def inspect(self, blob: bytes, spec: EngineSpec) -> str:
        """Returns the engine inspector's JSON about an engine's layers.

        Raises:
            EngineError: if the library refuses the engine.
            BackendError: if the library has no inspector.
        """
        from .inspect import inspect_engine

        library, errors = self._library(), list[str]()
        if not hasattr(library, "EngineInspector"):
            raise BackendError(
                f"{self.module_name} has no engine inspector: `vit-edge build --target tensorrt` "
                "and inspect that"
            )
        with _errors_as_engine_errors(f"{self.name} cannot inspect this engine", errors):
            full = cast("FullLibrary", library)
            return inspect_engine(full, _logger(library, errors), blob, spec)


def _import(module_name: str, backend: str) -> FullLibrary:
    try:
        return cast("FullLibrary", importlib.import_module(module_name))
    except (ImportError, OSError):  # OSError: the bindings are there and their libraries are not
        raise BackendError(f"{module_name} is not installed: {install_command(backend)}") from None


def _builds_without_gpu(library: Library) -> bool:
    """Returns true for TensorRT for RTX, which alone can target other GPUs."""
    return hasattr(library, "ComputeCapability")


def _logger(library: Library, errors: list[str]) -> Logger:
    """Returns a TensorRT logger that adds errors to `errors` and passes the rest to `logging`. The
    code that reports the errors clears them, so that they stay few.
    """

    def pass_on(severity: trt.ILogger.Severity, message: str) -> None:
        if severity == library.ILogger.WARNING:
            _log.info("%s", message)
        elif severity not in (library.ILogger.ERROR, library.ILogger.INTERNAL_ERROR):
            _log.debug("%s", message)

    return make_logger(library, errors, pass_on)


@contextmanager
def _errors_as_engine_errors(what: str, messages: list[str]) -> Iterator[None]:
    try:
        yield
    except (BackendError, InputError, MemoryError):
        raise
    except Exception as error:  # the bindings raise RuntimeError, TypeError and their own
        detail = "; ".join([str(error), *messages[:3]])
        raise engine_error(f"{what}: {' '.join(detail.split())[:500]}", error) from None
