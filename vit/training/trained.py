"""The file that training leaves, read back with all that is needed to use it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vit_edge.runtime.errors import InputError
from vit_edge.runtime.preprocess import Preprocess

from ..checkpoints import build_model, read_checkpoint
from ..facts import Facts
from ..preprocessing import find_preprocess
from ..vision_transformer import VisionTransformer


@dataclass(frozen=True)
class TrainedModel:
    """A model in eval mode, with what is needed to show it a picture and to name its answer."""

    model: VisionTransformer
    preprocess: Preprocess
    labels: tuple[str, ...]


def read_trained(path: Path) -> TrainedModel:
    """Reads a file that `vit.train` wrote.

    Raises:
        InputError: if the file is missing, damaged or was not made so.
    """
    checkpoint = read_checkpoint(path)
    config, facts = checkpoint.config, checkpoint.facts
    labels = facts.labels or ()
    if config is None or facts.mean is None or len(labels) != config.num_classes:
        raise InputError(f"{path} has no class names and preprocessing: `vit.train` writes them")
    preprocess, _ = find_preprocess(Facts(), facts, config)
    model = build_model(config, checkpoint.tensors, path.name)
    return TrainedModel(model, preprocess, labels)
