"""What to do about the errors of CUDA that users meet.

Source: CUDA Runtime API, cudaError_t; CUDA compatibility guide.
"""

from __future__ import annotations

from collections.abc import Callable

_LASTING = (
    "cudaErrorAssert",
    "cudaErrorContained",
    "cudaErrorECCUncorrectable",
    "cudaErrorExternalDevice",
    "cudaErrorHardwareStackError",
    "cudaErrorIllegalAddress",
    "cudaErrorIllegalInstruction",
    "cudaErrorInvalidAddressSpace",
    "cudaErrorInvalidPc",
    "cudaErrorLaunchFailure",
    "cudaErrorLaunchTimeout",
    "cudaErrorMisalignedAddress",
    "cudaErrorMpsClientTerminated",
    "cudaErrorTensorMemoryLeak",
)
"""Errors after which every call of the process fails."""

_REMEDIES = {
    "cudaErrorMemoryAllocation": "the GPU is out of memory: end other programs that use it, or "
    "export with a smaller --max-batch",
    "cudaErrorNoDevice": "no NVIDIA GPU is visible: see CUDA_VISIBLE_DEVICES and nvidia-smi",
    "cudaErrorSystemDriverMismatch": "the driver was updated without a restart: reboot",
    **dict.fromkeys(_LASTING, "CUDA can do nothing more in this process: restart it"),
}


def remedy(error: str, version: Callable[[str], int]) -> str:
    """What to do, in one line; empty where we know nothing.

    Args:
        error: CUDA's name of it.
        version: Answers "cudaDriverGetVersion" and "cudaRuntimeGetVersion".
    """
    if error != "cudaErrorInsufficientDriver":
        return _REMEDIES.get(error, "")
    driver, runtime = version("cudaDriverGetVersion"), version("cudaRuntimeGetVersion")
    if driver == 0:
        return "no NVIDIA driver is installed here: install one"
    return (
        f"the NVIDIA driver knows CUDA up to {_text(driver)}, cuda-bindings is for "
        f"{_text(runtime)}: update the driver, or pip install 'cuda-bindings<{driver // 1000 + 1}'"
    )


def _text(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"
