"""Opens engines, and explains why a TensorRT library refuses one.

Source: TensorRT developer guide, "Engine Compatibility"; TensorRT for RTX, "Compatibility Checks".
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, cast

from ...errors import EngineError, ResourceError, engine_error, is_shortage
from ...manifest import EngineEntry

if TYPE_CHECKING:
    import tensorrt as trt
    import tensorrt_rtx as rtx

REMEDIES = {
    "VERSION_MISMATCH": "it was built by another version: `vit-edge build` makes one here",
    "UNSUPPORTED_CC": "it was built for other GPUs: `vit-edge build` makes one here",
    "OLD_CUDA_DRIVER": "the NVIDIA driver is too old for it: update the driver",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old for it: update CUDA",
    "INSUFFICIENT_GPU_MEMORY": "the GPU has not enough memory for it",
    "MALFORMED_ENGINE": "it is no engine of this library",
    "CUDA_ERROR": "CUDA does not work here: check the NVIDIA driver with `nvidia-smi`",
}
"""Explanations of TensorRT for RTX's EngineInvalidityDiagnostics."""
_UNKNOWN = "it was built by another version or for another GPU: `vit-edge build` makes one here"


class Library(Protocol):
    """Python module of any TensorRT. They are alike, so it is typed as `tensorrt`."""

    __name__: str
    __version__: str
    DataType: type[trt.DataType]
    ExecutionContextAllocationStrategy: type[trt.ExecutionContextAllocationStrategy]
    ILogger: type[trt.ILogger]
    Runtime: type[trt.Runtime]


class RtxLibrary(Library, Protocol):
    """Python module of TensorRT for RTX, with what only it has."""

    ComputeCapability: type[rtx.ComputeCapability]
    CudaGraphStrategy: type[rtx.CudaGraphStrategy]
    EngineInvalidityDiagnostics: type[rtx.EngineInvalidityDiagnostics]


class Logger(Protocol):
    """New logger of the library that collects errors."""

    errors: list[str]


def make_logger(
    library: Library, errors: list[str], pass_on: Callable[[trt.ILogger.Severity, str], None]
) -> Logger:
    """Creates a logger of the library that adds errors to `errors` and passes every message on."""
    if not TYPE_CHECKING:
        trt = library  # mypy has to know a base class

    class ErrorKeeper(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors = errors

        def log(self, severity: trt.ILogger.Severity, message: str) -> None:
            if severity in (library.ILogger.ERROR, library.ILogger.INTERNAL_ERROR):
                errors.append(message)
            pass_on(severity, message)

    return ErrorKeeper()


def open_engine(
    library: Library, logger: Logger, blob: bytes
) -> tuple[trt.Runtime, trt.ICudaEngine]:
    """Returns the runtime, which must outlive the engine, and the engine. `blob` is verified.

    Raises:
        EngineError: if the library refuses it, with the reason if the library gives one.
            ResourceError if there is not enough memory for it.
    """
    runtime = library.Runtime(logger)
    require_made(runtime, logger)
    runtime.engine_host_code_allowed = False  # an engine is data and must not bring code
    engine = runtime.deserialize_cuda_engine(blob)
    if engine is None:
        if any(is_shortage(message) for message in logger.errors):
            raise ResourceError("the GPU has not enough memory for it: end other programs")
        raise engine_error(_why_refused(library, runtime, blob))
    return runtime, engine


def require_made(made: object, logger: Logger) -> None:
    """Raises EngineError if `made`, a new runtime or builder, is not usable.

    This happens if CUDA does not work for the library, and only its log shows it. Using or freeing
    such an object would crash the process, so it is kept forever.
    """
    if logger.errors:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(made))
        raise EngineError("CUDA does not work here: check the NVIDIA driver with `nvidia-smi`")


def require_context(context: trt.IExecutionContext | None) -> trt.IExecutionContext:
    """Returns a new context. Raises ResourceError if there is none."""
    if context is None:
        raise ResourceError("no execution context: most likely the GPU is out of memory")
    return context


def _why_refused(library: Library, runtime: trt.Runtime, blob: bytes) -> str:
    """Returns the reason: TensorRT for RTX reads it from the header, the others only log it."""
    if not hasattr(library, "EngineInvalidityDiagnostics"):
        return _UNKNOWN
    rtx_runtime = cast("rtx.Runtime", runtime)
    _, flags = rtx_runtime.get_engine_validity(blob[: rtx_runtime.engine_header_size])
    kinds = cast("RtxLibrary", library).EngineInvalidityDiagnostics
    reasons = [text for name, text in REMEDIES.items() if int(getattr(kinds, name, 0)) & int(flags)]
    return "; ".join(reasons) or _UNKNOWN


def parse_version(text: str) -> tuple[int, ...]:
    """Returns the leading numbers of a version: "10.14.1.48.post1" -> (10, 14, 1, 48)."""
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, match.group().split("."))) if match else ()


def opens_forward(built_by: str, here: str) -> bool:
    """Returns true if a library opens a version-compatible engine: one of its own version or older.

    Versions before 8.6 built none. The build number, the fourth, does not count.
    """
    built, running = parse_version(built_by)[:3], parse_version(here)[:3]
    return (8, 6) <= built <= running


def mismatch(engine: EngineEntry, library: str, version: str, capability: str) -> str:
    """Describes the targets that an engine was built for, and this device."""
    targets = ", ".join(engine.compute_capabilities) or "the library's own set of GPUs"
    return (
        f"{engine.file} was built by {engine.backend} {engine.version} for {targets}; here are "
        f"{library} {version} and {capability}"
    )
