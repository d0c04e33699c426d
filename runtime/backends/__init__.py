"""The table of backends, fastest kind first. Importing it imports no backend's library."""

from __future__ import annotations

from ..errors import InputError
from .base import Backend, BlobStore, BuildOptions, Built, Frames, Session
from .onnxruntime import CPU, CUDA, OnnxRuntime
from .openvino import OpenVino
from .tensorrt import VERSION_COMPATIBLE, TensorRT

__all__ = [
    "BACKENDS",
    "Backend",
    "BlobStore",
    "BuildOptions",
    "Built",
    "Frames",
    "Session",
    "find_backend",
]

BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        TensorRT("tensorrt", module_name="tensorrt"),
        TensorRT("tensorrt-rtx", module_name="tensorrt_rtx"),
        TensorRT(
            "tensorrt-lean",
            module_name="tensorrt_lean",
            builder_name="tensorrt",
            builder_flags=(VERSION_COMPATIBLE, "EXCLUDE_LEAN_RUNTIME"),  # no code in the engine
        ),
        OnnxRuntime("onnxruntime-cuda", CUDA, graph="gpu"),
        OpenVino(),
        OnnxRuntime("onnxruntime", CPU, graph="cpu", lacks=("bf16",)),
    )
}


def find_backend(name: str) -> Backend:
    """The backend of that name. Raises InputError if there is none."""
    if name not in BACKENDS:
        raise InputError(f"unknown backend {name!r}: choose from {', '.join(BACKENDS)}")
    return BACKENDS[name]
