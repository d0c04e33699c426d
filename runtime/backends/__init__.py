"""The table of backends, fastest kind first. A backend's own modules load on its first use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping

from ..errors import InputError
from .base import Backend, BlobStore, BuildOptions, Built, Frames, RunVariant, Session

__all__ = [
    "BACKENDS",
    "Backend",
    "BlobStore",
    "BuildOptions",
    "Built",
    "Frames",
    "RunVariant",
    "Session",
    "find_backend",
]


def _tensorrt() -> Backend:
    from .tensorrt import TensorRT

    return TensorRT("tensorrt", module_name="tensorrt")


def _tensorrt_rtx() -> Backend:
    from .tensorrt import TensorRT

    return TensorRT("tensorrt-rtx", module_name="tensorrt_rtx")


def _tensorrt_lean() -> Backend:
    from .tensorrt import VERSION_COMPATIBLE, TensorRT

    return TensorRT(
        "tensorrt-lean",
        module_name="tensorrt_lean",
        builder_name="tensorrt",
        builder_flags=(VERSION_COMPATIBLE, "EXCLUDE_LEAN_RUNTIME"),  # no code in the engine
    )


def _onnxruntime_cuda() -> Backend:
    from .onnxruntime import CUDA, OnnxRuntime

    return OnnxRuntime("onnxruntime-cuda", CUDA, graph="gpu", lacks=("nvfp4", "nvfp4_weights"))


def _openvino() -> Backend:
    from .openvino import OpenVino

    return OpenVino()


def _onnxruntime() -> Backend:
    from .onnxruntime import CPU, OnnxRuntime

    return OnnxRuntime("onnxruntime", CPU, graph="cpu", lacks=("bf16",))


class BackendTable(MutableMapping[str, Backend]):
    """Backends by name, each made when it is first looked up.

    Args:
        rows: The functions that make them, in order of preference.
    """

    def __init__(self, rows: dict[str, Callable[[], Backend]]) -> None:
        self._rows = rows
        self._made: dict[str, Backend] = {}

    def __getitem__(self, name: str) -> Backend:
        if name not in self._made:
            self._made[name] = self._rows[name]()
        return self._made[name]

    def __setitem__(self, name: str, backend: Backend) -> None:
        self._rows.setdefault(name, lambda: backend)
        self._made[name] = backend

    def __delitem__(self, name: str) -> None:
        del self._rows[name]
        self._made.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


BACKENDS = BackendTable(
    {
        "tensorrt": _tensorrt,
        "tensorrt-rtx": _tensorrt_rtx,
        "tensorrt-lean": _tensorrt_lean,
        "onnxruntime-cuda": _onnxruntime_cuda,
        "openvino": _openvino,
        "onnxruntime": _onnxruntime,
    }
)


def find_backend(name: str) -> Backend:
    """Returns the backend of that name. Raises InputError if there is none."""
    if name not in BACKENDS:
        raise InputError(f"unknown backend {name!r}: choose from {', '.join(BACKENDS)}")
    return BACKENDS[name]
