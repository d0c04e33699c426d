"""Preprocessing of a model's images: found from its hints, and its last step, in PyTorch."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vit_edge.runtime.errors import InputError
from vit_edge.runtime.preprocess import MODES, Preprocess
from vit_edge.vit.config import ViTConfig
from vit_edge.vit.hints import HALF, ModelHints

_DEFAULTS = ModelHints(interpolation="bicubic", crop=1.0, crop_mode="center")


def normalise(frames: NDArray[np.uint8], preprocess: Preprocess) -> Tensor:
    """Turns frames uint8 `[N, H, W, C]` into the model's input, float32 `[N, C, H, W]`."""
    scaled = torch.from_numpy(frames).permute(0, 3, 1, 2).to(torch.float32) / 255
    mean, std = (torch.tensor(v).reshape(1, -1, 1, 1) for v in (preprocess.mean, preprocess.std))
    return (scaled - mean) / std


def find_preprocess(
    user: ModelHints, model: ModelHints, config: ViTConfig
) -> tuple[Preprocess, tuple[str, ...]]:
    """Returns the preprocessing, and in words what had to be assumed here.

    Args:
        user: Hints from the user, which come first.
        model: Hints from the checkpoint, its source's conventions or its variant.
        config: The model, which has the size and channels of the frames.

    Raises:
        InputError: naming the options that are missing or do not fit.
    """
    hints = user.or_else(model)
    channels, assumed = config.in_channels, list[str]()
    if channels not in MODES:
        raise InputError(f"the model takes {channels} channels: images have 1 or 3")
    for name in ("mean", "std"):
        value = getattr(hints, name)
        grey = channels == 1 and getattr(user, name) is None
        if grey and value is not None and len(value) == 3:
            hints = ModelHints(**{**vars(hints), name: HALF[0][:1]})
            assumed.append(f"{name} 0.5 (one channel)")
    missing = [f"--{name}" for name in ("mean", "std") if getattr(hints, name) is None]
    if missing:
        raise InputError(
            "the normalisation of the model's images is not in the checkpoint, and no known "
            f"variant has its size: give {' and '.join(missing)} (on the 0-1 scale)"
        )
    for name, value in vars(_DEFAULTS).items():
        if value is not None and getattr(hints, name) is None:
            assumed.append(f"{name} {value} (default)")
    hints = hints.or_else(_DEFAULTS)
    try:
        preprocess = Preprocess(
            *config.image_size,
            channels=channels,
            crop=1.0 if hints.crop is None else hints.crop,
            interpolation=str(hints.interpolation),
            mean=hints.mean or (),
            std=hints.std or (),
            crop_mode=str(hints.crop_mode),
        )
    except ValueError as error:
        raise InputError(f"--mean, --std, --crop, --interpolation: {error}") from None
    return preprocess, tuple(assumed)
