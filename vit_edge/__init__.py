"""Vision transformers from PyTorch to proven TensorRT engines on edge devices.

The names of the runtime are here: it imports numpy and the standard library. Training, calibration
and export need the extra `export`.
"""

from vit_edge import runtime
from vit_edge.runtime import *  # noqa: F403

__version__ = "0.1.0"

__all__ = ["__version__"]
__all__ += runtime.__all__
