"""TensorRT 10 and 11 and TensorRT for RTX: one implementation.

Precision is in the graph (strongly typed networks), so building knows nothing of it. Where the
libraries differ, a feature is asked for by its attribute, never by a version. The libraries crash
on bytes that are not an engine: callers pass only bytes whose hash they verified.

Source: TensorRT Python API (ILogger).
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..errors import BackendError, EngineError, InputError
from ..manifest import EngineSpec
from . import cuda
from .base import NONE, BuildOptions, External, Scratch
from .tensorrt_build import build_plan, find_compute_capability
from .tensorrt_session import TensorRTSession

_log = logging.getLogger("vit_edge.tensorrt")


@dataclass(frozen=True)
class TensorRT:
    """See `runtime.backends.base.Backend`. `module_name` is the Python module of the library."""

    name: str
    module_name: str
    graph: str = "gpu"
    lacks: tuple[str, ...] = ()
    needs_engine: bool = True

    def _library(self) -> Any:
        try:
            return importlib.import_module(self.module_name)
        except (
            ImportError,
            OSError,
        ):  # OSError: the bindings are there and their libraries are not
            raise BackendError(
                f"{self.module_name} is not installed: pip install 'vit-edge[{self.name}]'"
            ) from None

    def version(self) -> str:
        return str(self._library().__version__)

    def device(self) -> str:
        return cuda.device_name()

    def built_for(self, options: BuildOptions) -> tuple[str, ...]:
        """Full TensorRT builds for the GPU that is here; RTX, if not told, for its portable set."""
        library, asked = self._library(), options.compute_capabilities
        for capability in asked:
            find_compute_capability(library, capability)
        if asked or hasattr(library, "ComputeCapability"):
            return asked
        return (cuda.compute_capability(),)

    def runs_engine_for(self, capabilities: tuple[str, ...]) -> bool:
        return not capabilities or cuda.compute_capability() in capabilities

    def build_problem(self) -> str | None:
        try:
            library = self._library()
        except BackendError as error:
            return str(error)
        # Only TensorRT for RTX, known by its target setting, builds ahead of time without a GPU.
        return None if hasattr(library, "ComputeCapability") else cuda.device_problem()

    def run_problem(self) -> str | None:
        try:
            self._library()
        except BackendError as error:
            return str(error)
        return cuda.device_problem()

    def compile(self, onnx: bytes, spec: EngineSpec, options: BuildOptions) -> bytes:
        library, messages = self._library(), list[str]()
        what = f"{self.name} {self.version()} cannot build this graph"
        with _errors_as_engine_errors(what, messages):
            logger = _logger(library, messages)
            return build_plan(library, logger, onnx, spec, options, messages)

    def open(
        self,
        blob: bytes,
        spec: EngineSpec,
        external: External = NONE,
        scratch: Scratch | None = None,
    ) -> TensorRTSession:
        library, messages = self._library(), list[str]()
        with _errors_as_engine_errors(
            f"{self.name} {self.version()} cannot open this engine", messages
        ):
            return TensorRTSession(library, _logger(library, messages), blob, spec, scratch)


def _logger(library: Any, messages: list[str]) -> Any:
    """A TensorRT logger that keeps errors for our message and passes the rest to `logging`."""

    class Logger(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors = list[str]()

        def log(self, severity: Any, message: str) -> None:
            if severity in (library.ILogger.ERROR, library.ILogger.INTERNAL_ERROR):
                self.errors.append(message)
                messages.append(message)
            elif severity == library.ILogger.WARNING:
                _log.info("%s", message)
            else:
                _log.debug("%s", message)

    return Logger()


@contextmanager
def _errors_as_engine_errors(what: str, messages: list[str]) -> Iterator[None]:
    try:
        yield
    except (BackendError, InputError, MemoryError):
        raise
    except Exception as error:  # the bindings raise RuntimeError, TypeError and their own
        detail = "; ".join([str(error), *messages[:3]])
        raise EngineError(f"{what}: {' '.join(detail.split())[:500]}") from None
