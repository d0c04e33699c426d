"""The start of a training: a variant with random weights, or a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from vit_edge.runtime.errors import InputError
from vit_edge.runtime.preprocess import Preprocess
from vit_edge.runtime.tools.display import say

from ..checkpoints import (
    Checkpoint,
    build_model,
    find_architecture,
    locate,
    read_checkpoint,
    require_variant,
)
from ..config import ViTConfig
from ..hints import ModelHints
from ..preprocessing import find_preprocess
from ..variants import find_variant
from ..vision_transformer import VisionTransformer


@dataclass(frozen=True)
class Start:
    """An architecture, its preprocessing, and the checkpoint that has them, if there is one.

    `native` and `antialias`: see `vit.checkpoints.build_model`.
    """

    config: ViTConfig
    preprocess: Preprocess
    checkpoint: Checkpoint | None = None
    native: tuple[int, int] | None = None
    antialias: bool | None = None


def find_start(
    model: str | None, weights: str | None, image_size: int | None, key: str | None = None
) -> Start:
    """Finds the variant named `model`, or the checkpoint `weights`, at the requested size; of
    several weights in the file those called `key`.

    Raises:
        InputError: if the checkpoint cannot be read or is no `model`, or the size does not fit.
    """
    user = ModelHints(img_size=None if image_size is None else (image_size, image_size))
    variant = None if model is None else find_variant(model)
    if weights is None:
        assert variant is not None
        try:
            config = user.applied_to(variant.config)
        except ValueError as error:
            raise InputError(f"--image-size {image_size}: {error}") from None
        return Start(config, find_preprocess(user, variant.hints, config)[0])
    checkpoint = read_checkpoint(locate(weights), key)
    architecture = find_architecture(checkpoint, user, variant)
    config, hints = architecture.config, architecture.hints
    if model is not None:
        require_variant(model, config, weights)
    preprocess, assumed = find_preprocess(user, hints, config)
    for line in (*checkpoint.notes, *(f"assumed: {a}" for a in (*architecture.assumed, *assumed))):
        say(line)
    return Start(config, preprocess, checkpoint, architecture.native, hints.antialias)


def starting_model(start: Start, labels: tuple[str, ...], seed: int) -> VisionTransformer:
    """Builds a model for these classes. A checkpoint's head stays if it has as many classes and no
    other names for them, its rows in the order of `labels`; a new head is zero, and a note says so.

    Raises:
        InputError: if the checkpoint's tensors do not fit.
    """
    torch.manual_seed(seed)
    config = replace(start.config, num_classes=len(labels))
    checkpoint = start.checkpoint
    if checkpoint is None:
        return VisionTransformer.from_config(config)
    tensors = dict(checkpoint.tensors)
    named = checkpoint.hints.labels
    if start.config.num_classes == len(labels) and named is not None and {*named} == {*labels}:
        rows = [named.index(label) for label in labels]
        for part in ("head.weight", "head.bias"):
            tensors[part] = tensors[part][rows]
    elif start.config.num_classes != len(labels) or named is not None:
        if start.config.num_classes:
            say(f"the head of {checkpoint.source} is of other classes: a new one takes its place")
        # The original code fine-tunes from a zero head: no image is misled by a random one.
        tensors["head.weight"] = torch.zeros(len(labels), config.feature_dim)
        tensors["head.bias"] = torch.zeros(len(labels))
    return build_model(config, tensors, checkpoint.source, start.native, start.antialias)
