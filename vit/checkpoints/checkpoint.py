"""A checkpoint, whatever its source, in one form."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from vit_edge.vit.config import ViTConfig
from vit_edge.vit.hints import ModelHints


@dataclass(frozen=True)
class RawCheckpoint:
    """Tensors under their file's own names, and the file's hints.

    `tensors` is emptied as it is brought to the model's names, so that no two copies are held.

    Attributes:
        arch: Name of the architecture that the file states, such as "deit_base_patch16_224".
        options: Whatever else the file holds, such as the options of its training: plain data.
    """

    source: str
    tensors: dict[str, Tensor]
    config: ViTConfig | None = None
    hints: ModelHints = field(default_factory=ModelHints)
    arch: str | None = None
    options: Any = None


@dataclass(frozen=True)
class Checkpoint:
    """Tensors under the model's names (`vit.vision_transformer`).

    Attributes:
        source: The file's name, for messages.
        naming: The source whose names the file used, such as "timm".
        config: The whole architecture, where the file has it (this project's do).
        hints: Facts that the file states beside its tensors.
        conventions: Usual facts of its source.
        left_out: Names of tensors that are no part of the image model, such as a text tower's.
        notes: What was chosen, merged or left out on the way, in words.
        assumed: What was assumed on the way, in words.
        arch: Name of the architecture that the file states.
    """

    source: str
    naming: str
    tensors: dict[str, Tensor]
    config: ViTConfig | None
    hints: ModelHints
    conventions: ModelHints
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    arch: str | None = None
