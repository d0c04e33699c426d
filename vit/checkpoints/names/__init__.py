"""The names that each source gives its tensors. One file and one row here for each."""

from .base import Naming
from .huggingface import CLIP_NAMES, HUGGING_FACE_NAMES
from .jax import JAX_NAMES
from .openai import OPENAI_NAMES
from .timm import TIMM_NAMES
from .torchvision import TORCHVISION_NAMES

NAMINGS: dict[str, Naming] = {
    naming.name: naming
    for naming in (
        TIMM_NAMES,
        TORCHVISION_NAMES,
        HUGGING_FACE_NAMES,
        CLIP_NAMES,
        OPENAI_NAMES,
        JAX_NAMES,
    )
}

__all__ = ["NAMINGS", "Naming"]
