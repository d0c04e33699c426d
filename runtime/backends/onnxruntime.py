"""ONNX Runtime on the CPU or through CUDA: runs every precision's ONNX graph as it is.

Source: ONNX Runtime Python API (InferenceSession), CUDA execution provider.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import (
    BackendError,
    ClosedError,
    EngineError,
    engine_error,
    first_line,
    install_command,
)
from ..manifest import EngineSpec, Fact
from ..outputs import pack
from ..schema import decode
from . import cuda
from .base import NO_EXTERNAL_DATA, BlobStore, ExternalData, Frames, OnnxBackendMixin
from .cpu import choose_threads, cpu_name, is_limited
from .installed import installed_version, is_installed
from .process import keep_in_children
from .threads import stream_in_thread

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu")
_MISSING = f"ONNX Runtime is not installed: {install_command('onnxruntime')}"
_LEVELS = {"all": "ORT_ENABLE_ALL", "extended": "ORT_ENABLE_EXTENDED"}


@dataclass(frozen=True)
class ExecutionProvider:
    """Execution provider of ONNX Runtime.

    Attributes:
        name: ONNX Runtime's name for it.
        extra: The extra of vit-edge that installs it.
        device: Returns the name of the device that it runs on.
        device_problem: Returns why there is no such device here; None if there is.
        options: Its options.
        libraries: Names of the libraries that it needs beside ONNX Runtime; "" for none.
    """

    name: str
    extra: str
    device: Callable[[], str]
    device_problem: Callable[[], str | None]
    options: Mapping[str, str] = field(default_factory=dict)
    libraries: str = ""


PROVIDERS: dict[str, ExecutionProvider] = {
    provider.name: provider
    for provider in (
        ExecutionProvider(CPU, "onnxruntime", cpu_name, lambda: None),
        ExecutionProvider(
            CUDA,
            "onnxruntime-gpu",
            lambda: cuda.device_name(),
            lambda: cuda.device_problem(),
            # TF32 would round fp32 matrix products to 10 bits: fp32 means fp32 here.
            {"use_tf32": "0"},
            "CUDA and cuDNN",
        ),
    )
}
"""Execution providers that backends use."""


def load_library() -> Any:
    """Imports ONNX Runtime with its telemetry off: from 1.29 on it would write a device id into the
    user's cache and report to its maker which models run. Set ORT_DISABLE_TELEMETRY=0 to opt in.

    Raises:
        BackendError: if it is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError:
        raise BackendError(_MISSING) from None
    return onnxruntime


@dataclass(frozen=True)
class SessionSettings:
    """Settings of a session that change how fast it runs, and its outputs by rounding at most.

    Attributes:
        optimisation: "all", or "extended", which leaves out the layouts for convolutions.
        memory_pattern: True if memory is planned ahead of a call.
        spinning: True if threads wait for each other by spinning.
        block_base: ONNX Runtime's dynamic block base, by which threads take ever smaller shares of
            the work; 0 for equal shares.
        threads: CPU threads that compute, if the caller requests no number; 0 for the default.

    Source: ONNX Runtime, "Thread management", and onnxruntime_session_options_config_keys.h.
    """

    optimisation: str = "all"
    memory_pattern: bool = True
    spinning: bool = True
    block_base: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        if self.optimisation not in _LEVELS:
            raise ValueError(f"optimisation {self.optimisation!r} is none of {', '.join(_LEVELS)}")
        if min(self.block_base, self.threads) < 0:
            raise ValueError(f"block_base {self.block_base}, {self.threads} threads")

    def apply(self, options: Any) -> None:
        """Sets those that are not the default in `SessionOptions`."""
        if self.optimisation != "all":
            levels = load_library().GraphOptimizationLevel
            options.graph_optimization_level = getattr(levels, _LEVELS[self.optimisation])
        if not self.memory_pattern:
            options.enable_mem_pattern = False
        if not self.spinning:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if self.block_base:
            options.add_session_config_entry("session.dynamic_block_base", str(self.block_base))


@dataclass(frozen=True)
class OnnxRuntime(OnnxBackendMixin):
    """See `runtime.backends.base.Backend`. `provider` is a key of `PROVIDERS`."""

    name: str
    provider: str
    graph: str
    lacks: tuple[str, ...] = ()
    settings: SessionSettings = field(default_factory=SessionSettings)

    @property
    def opens_after_fork(self) -> bool:
        return self.provider == CPU

    def version(self) -> str:
        return installed_version(*_DISTRIBUTIONS) or str(load_library().__version__)

    def device(self) -> str:
        return PROVIDERS[self.provider].device()

    def run_problem(self) -> str | None:
        if not is_installed("onnxruntime"):
            return _MISSING
        row = PROVIDERS[self.provider]
        problem = row.device_problem()
        # Every ONNX Runtime has the CPU provider: no need to import it to check.
        if problem is None and row.name != CPU:
            available = load_library().get_available_providers()
            if row.name not in available:
                return f"this ONNX Runtime has no {row.name}: {install_command(row.extra)}"
        return problem

    def tuned(self, settings: Mapping[str, Fact]) -> OnnxRuntime:
        return replace(self, settings=decode(SessionSettings, dict(settings)))

    def open(
        self,
        blob: bytes,
        spec: EngineSpec,
        external: ExternalData = NO_EXTERNAL_DATA,
        scratch: BlobStore | None = None,
        threads: int | None = None,
    ) -> OnnxRuntimeSession:
        threads = threads if threads is not None else self.settings.threads or None
        options = session_options(external, threads)
        self.settings.apply(options)
        try:
            session = open_graph(blob, options, self.provider)
        except BackendError:  # what is missing is no fault of the graph
            raise
        except Exception as error:  # its exception types are private, and differ between releases
            raise engine_error(
                f"ONNX Runtime {self.version()} refuses the graph: {first_line(error)}"
            ) from None
        # If a provider's libraries do not load, ONNX Runtime goes on with the CPU and only logs it.
        if session.get_providers()[0] != self.provider:
            libraries = PROVIDERS[self.provider].libraries or "libraries"
            raise EngineError(
                f"ONNX Runtime {self.version()} cannot start {self.provider} and would run on the "
                f"CPU: install the {libraries} that it was built for"
            )
        count = choose_threads(threads) if self.provider == CPU else None
        return keep_in_children(OnnxRuntimeSession(session, spec, count))


def open_inference(blob: bytes, external: ExternalData = NO_EXTERNAL_DATA) -> Any:
    """Opens an `InferenceSession` of the graph on the CPU, to run many images in batches.

    With memory patterns ONNX Runtime would plan the memory of the second run ahead and also keep
    that of the first: a gigabyte for 4 images through a ViT-B, though only the smallest models gain
    time by it.
    """
    options = session_options(external)
    options.enable_mem_pattern = False
    return open_graph(blob, options, CPU)


def open_graph(blob: bytes, options: Any, provider: str) -> Any:
    """Opens an `InferenceSession` of the graph with these `SessionOptions`."""
    library = load_library()
    if provider != CPU and hasattr(library, "preload_dlls"):  # CUDA installed by pip
        library.preload_dlls()
    row = PROVIDERS[provider]
    with_options = (row.name, dict(row.options)) if row.options else row.name
    return library.InferenceSession(blob, options, providers=[with_options])


def session_options(external: ExternalData = NO_EXTERNAL_DATA, threads: int | None = None) -> Any:
    """Makes the `SessionOptions` of all our sessions: they log only fatal errors, and use the
    requested number of CPU threads, or as many as this process may use.
    """
    options = load_library().SessionOptions()
    options.log_severity_level = 4  # failures are raised, not logged as well
    if threads is not None or is_limited():
        options.intra_op_num_threads = choose_threads(threads)
    add_external_weights(options, external)
    return options


def add_external_weights(options: Any, external: ExternalData) -> None:
    """Passes on the contents of the files that a graph names, so that none is opened by name.

    Raises:
        BackendError: if this ONNX Runtime is too old for it.
    """
    if not external:
        return
    add = getattr(options, "add_external_initializers_from_files_in_memory", None)
    if add is None:
        raise BackendError(
            "this ONNX Runtime is too old: pip install -U onnxruntime, or onnxruntime-gpu if it "
            "is that one"
        )
    add(list(external), list(external.values()), [len(content) for content in external.values()])


class OnnxRuntimeSession:
    """See `runtime.backends.base.Session`; `InferenceSession.run` is itself thread-safe."""

    takes_device_arrays = False

    def __init__(self, session: Any, spec: EngineSpec, threads: int | None) -> None:
        self._session, self.threads = session, threads
        self._input, self._outputs = spec.input_name, list(spec.output_names)

    def run(self, images: Frames) -> NDArray[np.float32]:
        session = self._session  # another thread may close it meanwhile
        if session is None:
            raise ClosedError()
        try:
            outputs = session.run(self._outputs, {self._input: images})
        except Exception as error:  # as above
            raise engine_error(f"ONNX Runtime failed: {first_line(error)}") from None
        return pack(outputs)

    def stream(self, batches: Iterable[Frames]) -> Iterator[NDArray[np.float32]]:
        return stream_in_thread(self.run, batches)

    def close(self) -> None:
        self._session = None
