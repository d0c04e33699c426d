"""Runs a vit-edge bundle on a device: numpy, the standard library and one backend, nothing else."""

from .answers import Answer, cosine_similarity, softmax, unit_length
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
from .video import read_video

__all__ = [
    "Answer",
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
    "cosine_similarity",
    "read_video",
    "softmax",
    "unit_length",
]
