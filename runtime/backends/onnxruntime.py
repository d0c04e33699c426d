"""ONNX Runtime on the CPU: runs every precision's ONNX graph as it is."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BackendError, ClosedError, EngineError, first_line
from ..manifest import EngineEntry, EngineSpec
from .base import NONE, BuildOptions, External, Frames, Scratch
from .streaming import stream_in_thread

_REMEDY = "pip install 'vit-edge[onnxruntime]'"


def load_library() -> Any:
    """ONNX Runtime, its telemetry off: from 1.29 on it would write a device id into the user's
    cache and report to its maker which models run. Who wants that sets ORT_DISABLE_TELEMETRY=0.

    Raises:
        BackendError: if it is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError:
        raise BackendError(f"ONNX Runtime is not installed: {_REMEDY}") from None
    return onnxruntime


@dataclass(frozen=True)
class OnnxRuntime:
    """See `runtime.backends.base.Backend`."""

    name: str = "onnxruntime"
    graph: str = "cpu"
    needs_engine: bool = False

    def version(self) -> str:
        return str(load_library().__version__)

    def device(self) -> str:
        return f"CPU ({platform.machine()})"

    def built_for(self, options: BuildOptions) -> tuple[str, ...]:
        return ()

    def builder_version(self) -> str:
        return self.version()

    def engine_problem(self, engine: EngineEntry) -> str | None:
        return None

    def build_problem(self) -> str | None:
        return self.run_problem()

    def run_problem(self) -> str | None:
        try:
            load_library()
        except BackendError as error:
            return str(error)
        return None

    def compile(self, onnx: bytes, spec: EngineSpec, options: BuildOptions) -> bytes:
        """ONNX Runtime compiles as it opens: the graph itself is the engine."""
        return onnx

    def open(
        self,
        blob: bytes,
        spec: EngineSpec,
        external: External = NONE,
        scratch: Scratch | None = None,
    ) -> OnnxRuntimeSession:
        try:
            session = open_inference(blob, external)
        except BackendError:  # what is missing is no fault of the graph
            raise
        except Exception as error:  # its exception types are private, and differ between releases
            raise EngineError(
                f"ONNX Runtime {self.version()} refuses the graph: {first_line(error)}"
            ) from None
        return OnnxRuntimeSession(session, spec)


def open_inference(blob: bytes, external: External = NONE) -> Any:
    """An `InferenceSession` of the graph on the CPU."""
    library = load_library()
    options = library.SessionOptions()
    options.log_severity_level = 3
    _add_external_weights(options, external)
    return library.InferenceSession(blob, options, providers=["CPUExecutionProvider"])


def _add_external_weights(options: Any, external: External) -> None:
    """Hands over the contents of the files that a graph names, so that none is opened by name.

    Raises:
        BackendError: if this ONNX Runtime is too old for it.
    """
    if not external:
        return
    add = getattr(options, "add_external_initializers_from_files_in_memory", None)
    if add is None:
        raise BackendError("models above 2 GiB need a newer ONNX Runtime: pip install -U it")
    add(list(external), list(external.values()), [len(content) for content in external.values()])


class OnnxRuntimeSession:
    """See `runtime.backends.base.Session`; `InferenceSession.run` is itself thread-safe."""

    takes_device_arrays = False

    def __init__(self, session: Any, spec: EngineSpec) -> None:
        self._session = session
        self._input, self._outputs = spec.input_name, [spec.output_name]

    def run(self, images: Frames) -> NDArray[np.float32]:
        session = self._session  # another thread may close it meanwhile
        if session is None:
            raise ClosedError()
        try:
            scores: NDArray[np.float32] = session.run(self._outputs, {self._input: images})[0]
        except Exception as error:  # as above
            raise EngineError(f"ONNX Runtime failed: {first_line(error)}") from None
        return scores

    def stream(self, batches: Iterable[Frames]) -> Iterator[NDArray[np.float32]]:
        return stream_in_thread(self.run, batches)

    def close(self) -> None:
        self._session = None
