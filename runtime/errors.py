"""Every error that vit-edge raises on purpose.

A message says what was wrong, with which value, and what to do. The command line prints it as one
line and exits with the class's `exit_code`.
"""

from __future__ import annotations

import re

_SHORTAGE = re.compile(
    r"out[ _]?of[ _]?memory|not enough memory|insufficient\w* memory|fail\w* to allocate|bad.?alloc"
    r"|no space left|_ALLOC_FAILED|\balloc\w* failed"
    r"|cudaErrorMemoryAllocation|cudaErrorDevicesUnavailable"
    r"|cudaErrorMps(Max\w+Reached|ServerNotReady|ConnectionFailed|RpcFailure)|resource (is )?busy",
    re.IGNORECASE,
)
"""Messages of libraries about problems that may be temporary. Sources: CUDA Runtime API,
cudaError_t; cuBLAS and cuDNN status codes; ONNX Runtime's arena allocator; TensorRT, ErrorCode;
`std::bad_alloc`.
"""

CUDA_BINDINGS = "cuda-bindings>=12.8"
LIBRARIES = {
    "health": ("opentelemetry-api>=1.30",),
    "hub": ("huggingface_hub>=0.30",),
    "images": ("pillow>=11",),
    "onnxruntime": ("onnxruntime>=1.20",),
    "onnxruntime-gpu": ("onnxruntime-gpu>=1.21", CUDA_BINDINGS),
    "openvino": ("openvino>=2025.2",),
    "ray": ("ray[data]>=2.50", "pyarrow>=17", "pillow>=11"),
    "report": ("matplotlib>=3.9", "jinja2>=3.1"),
    "score": ("pyarrow>=17", "pillow>=11"),
    "signing": ("model-signing>=1.1", "pyopenssl>=24", "cryptography>=42"),
    "tensorrt": ("tensorrt>=10.3", CUDA_BINDINGS),
    "tensorrt-lean": ("tensorrt-lean>=10.3", CUDA_BINDINGS),
    "tensorrt-rtx": ("tensorrt-rtx>=1.7", CUDA_BINDINGS),
    "timm": ("timm>=1.0.20",),
    "torchvision": ("torchvision>=0.28",),
    "transformers": ("transformers>=5",),
    "triton": ("tritonclient[grpc,http]>=2.60",),
    "verification": ("cryptography>=42",),
    "video": ("opencv-python-headless>=4.10", "pillow>=11"),
}
"""Packages that each extra installs. Messages name them because vit-edge is in no registry."""


def install_command(extra: str) -> str:
    """Returns the command that installs the packages of an extra. For extras that are not in
    `LIBRARIES` it has to be run in a checkout.
    """
    if extra in LIBRARIES:
        return f"pip install {' '.join(map(repr, LIBRARIES[extra]))}"
    return f"pip install '.[{extra}]' in a checkout of vit-edge"


class VitEdgeError(Exception):
    """Base of all vit-edge errors."""

    exit_code = 2


class InputError(VitEdgeError, ValueError):
    """The caller's data or arguments are wrong: shape, dtype, a missing or unreadable file, an
    unknown name.
    """


class BundleError(VitEdgeError):
    """A bundle is missing, incomplete or altered, or is not a bundle."""


class SignatureError(BundleError):
    """A bundle is not signed, its signature is not of the given key, or its files are not those
    that were signed.
    """


class RollbackError(SignatureError):
    """A signed bundle is older than one that this device has run."""


class BackendError(VitEdgeError, RuntimeError):
    """No backend can do what was asked here: a library, a driver or a device is missing."""


class EngineError(VitEdgeError, RuntimeError):
    """A backend refused an engine or failed to build or run it."""


class ResourceError(EngineError):
    """A backend failed for a reason that may be temporary: memory is full, the device is busy, or a
    build ran out of time.
    """


class ClosedError(EngineError):
    """The engine is closed."""

    def __init__(self) -> None:
        super().__init__("the engine is closed: load it again")


class ForkedError(EngineError):
    """An engine that a parent process loaded is used in a forked child, where it cannot run."""


class SelfCheckError(VitEdgeError):
    """An engine's outputs for the golden samples differ more from PyTorch's than allowed."""

    exit_code = 1


def first_line(error: BaseException) -> str:
    """Returns the first line of another library's message, or the error's type if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def is_shortage(message: str) -> bool:
    """Returns true if a library's message is about a temporary problem, such as full memory."""
    return _SHORTAGE.search(message) is not None


def engine_error(message: str, cause: BaseException | None = None) -> EngineError:
    """Makes the error for a library that failed: a ResourceError if the message is about a shortage
    or if `cause`, the error that it rewords, is a ResourceError.
    """
    may_pass = isinstance(cause, ResourceError) or is_shortage(message)
    return (ResourceError if may_pass else EngineError)(message)
