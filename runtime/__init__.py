"""Runs a vit-edge bundle on a device: numpy, the standard library and one backend, nothing else."""

from .bundle import Bundle
from .engine import Engine, EngineInfo
from .errors import (
    BackendError,
    BundleError,
    ClosedError,
    EngineError,
    InputError,
    RollbackError,
    SelfCheckError,
    SignatureError,
    VitEdgeError,
)
from .preprocess import Preprocess

__all__ = [
    "BackendError",
    "Bundle",
    "BundleError",
    "ClosedError",
    "Engine",
    "EngineError",
    "EngineInfo",
    "InputError",
    "Preprocess",
    "RollbackError",
    "SelfCheckError",
    "SignatureError",
    "VitEdgeError",
]
