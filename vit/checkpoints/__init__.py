"""Checkpoints in and out: files and folders of every common source, read without executing anything
in them, brought to one naming and proven to fit.

    read_checkpoint (formats, folder, names) -> find_architecture -> build_model
"""

from .architecture import Architecture, find_architecture, require_variant
from .checkpoint import Checkpoint
from .model import build_model, encode_checkpoint, fit
from .sources import SOURCES, checkpoint_sha256, locate, read_checkpoint

__all__ = [
    "SOURCES",
    "Architecture",
    "Checkpoint",
    "build_model",
    "checkpoint_sha256",
    "encode_checkpoint",
    "find_architecture",
    "fit",
    "locate",
    "read_checkpoint",
    "require_variant",
]
