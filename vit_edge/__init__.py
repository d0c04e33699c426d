"""Vision transformers from PyTorch to proven TensorRT engines on edge devices.

The names of the runtime are here: it imports numpy and the standard library. Training, calibration
and export need the extra `export`.
"""

from vit_edge.runtime import (
    Answer,
    BackendError,
    Bundle,
    BundleError,
    ClosedError,
    Engine,
    EngineError,
    EngineInfo,
    InputError,
    Preprocess,
    RollbackError,
    SelfCheckError,
    SignatureError,
    VitEdgeError,
    cosine_similarity,
    read_video,
    softmax,
    unit_length,
)

__version__ = "0.1.0"

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
    "__version__",
    "cosine_similarity",
    "read_video",
    "softmax",
    "unit_length",
]
