"""The weights that training starts from."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from runtime.errors import InputError

from ..checkpoints import Checkpoint, build_model, read_checkpoint
from ..vision_transformer import VisionTransformer, ViTConfig


def starting_model(config: ViTConfig, weights: Path | None, seed: int) -> VisionTransformer:
    """A model with random weights, or with those of a checkpoint: with a new head if that has
    another number of classes or none, with its positions resized if it was for another image size.

    Raises:
        InputError: if the checkpoint cannot be read or is of another model.
    """
    torch.manual_seed(seed)
    fresh = VisionTransformer.from_config(config)
    if weights is None:
        return fresh
    checkpoint = read_checkpoint(weights)
    _check_architecture(checkpoint, config, weights)
    tensors = dict(checkpoint.tensors)
    head = tensors.get("head.weight")
    if head is None or head.shape[:1] != (config.num_classes,):
        # The original code fine-tunes from a zero head: no image is misled by a random one.
        tensors["head.weight"] = torch.zeros_like(fresh.head.weight)
        tensors["head.bias"] = torch.zeros_like(fresh.head.bias)
    if "pos_embed" in tensors:
        side = config.img_size // config.patch_size
        tensors["pos_embed"] = resize_positions(tensors["pos_embed"], side)
    return build_model(config, tensors, weights.name)


def resize_positions(positions: Tensor, side: int) -> Tensor:
    """Position embeddings of another image size, interpolated in two dimensions (section 3.2 of the
    paper).

    Args:
        positions: `[1, 1 + rows * columns, D]` for a square of patches; anything else is returned
            as it is.
        side: The new rows and columns.
    """
    old = math.isqrt(max(0, positions.shape[1] - 1)) if positions.ndim == 3 else 0
    if old in (0, side) or positions.shape[1] != 1 + old**2:
        return positions
    grid = positions[:, 1:].transpose(1, 2).reshape(1, -1, old, old)  # [1, D, rows, columns]
    resized = F.interpolate(grid.float(), (side, side), mode="bicubic", antialias=True)
    patches = resized.flatten(2).transpose(1, 2).to(positions.dtype)
    return torch.cat([positions[:, :1], patches], dim=1)


def _check_architecture(checkpoint: Checkpoint, config: ViTConfig, weights: Path) -> None:
    """What shapes alone would not show, such as the number of heads."""
    if checkpoint.config is None:
        return
    fitted = {"num_classes": config.num_classes, "img_size": config.img_size}
    found = {**asdict(checkpoint.config), **fitted}
    wanted = asdict(config)
    different = [
        f"{name} {found[name]}, not {wanted[name]}"
        for name in wanted
        if found[name] != wanted[name]
    ]
    if different:
        raise InputError(
            f"{weights} is of another model ({'; '.join(different)}): name the MODEL that it is"
        )
