"""A checkpoint, whatever its source, in one form."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from vit_edge.vit.config import ViTConfig
from vit_edge.vit.facts import Facts


@dataclass(frozen=True)
class RawCheckpoint:
    """Tensors under their file's own names, and what the file says beside them.

    `tensors` is emptied as it is brought to the model's names, so that no two copies are held.
    """

    source: str
    tensors: dict[str, Tensor]
    config: ViTConfig | None = None
    facts: Facts = field(default_factory=Facts)


@dataclass(frozen=True)
class Checkpoint:
    """Tensors under the model's names (`vit.vision_transformer`).

    Attributes:
        source: The file's name, for messages.
        naming: Whose names the file used, as "timm".
        config: The whole architecture, where the file tells it (this project's do).
        facts: What the file says beside its tensors.
        conventions: What its source usually means.
        left_out: Names of tensors that are no part of the image model, as a text tower's.
    """

    source: str
    naming: str
    tensors: dict[str, Tensor]
    config: ViTConfig | None
    facts: Facts
    conventions: Facts
    left_out: tuple[str, ...] = ()
