"""Runs a vit-edge bundle on a device: numpy, the standard library and one backend, nothing else."""

from typing import TYPE_CHECKING, Any

from .answers import Answer, cosine_similarity, softmax, unit_length
from .bundle import Bundle
from .engine import Engine, EngineInfo
from .errors import (
    BackendError,
    BundleError,
    ClosedError,
    EngineError,
    ForkedError,
    InputError,
    ResourceError,
    RollbackError,
    SelfCheckError,
    SignatureError,
    VitEdgeError,
)
from .preprocess import Preprocess

if TYPE_CHECKING:
    from .tools.video import read_video as read_video

__all__ = [
    "Answer",
    "BackendError",
    "Bundle",
    "BundleError",
    "ClosedError",
    "Engine",
    "EngineError",
    "EngineInfo",
    "ForkedError",
    "InputError",
    "Preprocess",
    "ResourceError",
    "RollbackError",
    "SelfCheckError",
    "SignatureError",
    "VitEdgeError",
    "cosine_similarity",
    "softmax",
    "unit_length",
]


def __getattr__(name: str) -> Any:
    """Loads `read_video`, the one public name that lives in the tools, on its first use."""
    if name == "read_video":
        from .tools.video import read_video as read_video

        return read_video
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
