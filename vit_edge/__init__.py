"""Vision transformers from PyTorch to proven TensorRT engines on edge devices.

The names of the runtime are here: it imports numpy and the standard library. Training, calibration
and export need the extra `export`; `export_model` loads them when it is first used.
"""

from typing import TYPE_CHECKING, Any

from vit_edge import runtime
from vit_edge.runtime import *  # noqa: F403
from vit_edge.runtime.errors import install_command

if TYPE_CHECKING:
    from vit_edge.export.doors.api import export_model as export_model
    from vit_edge.runtime.tools.video import read_video as read_video

__version__ = "0.1.0"

__all__ = ["__version__", "read_video"]
__all__ += runtime.__all__


def _load_export_model() -> Any:
    """Imports PyTorch. Raises ImportError where the extra is missing, saying how to get it."""
    try:
        from vit_edge.export.doors.api import export_model
    except ModuleNotFoundError as error:
        raise ImportError(
            f"`export_model` needs {error.name}: {install_command('export,onnxruntime')}"
        ) from None
    return export_model


def __getattr__(name: str) -> Any:
    """Loads what is no part of the device core on its first use."""
    if name == "read_video":
        return runtime.read_video
    if name == "export_model":
        return _load_export_model()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
