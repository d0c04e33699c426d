"""Position embeddings for the tokens and the image size that the model has."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vit_edge.vit.config import ViTConfig


def fit_positions(
    tensors: dict[str, Tensor], config: ViTConfig, native: tuple[int, int], antialias: bool
) -> dict[str, Tensor]:
    """Fits `pos_embed` of these tensors to the model: float32 `[1, class token + patches, D]`.

    Positions of distillation and register tokens go into these tokens; a class token without one
    gets zero; the patches' are resampled where the grid is another. All but the resampling is
    exact.
    """
    positions = tensors["pos_embed"].float()
    prefix = positions.shape[1] - native[0] * native[1]
    first, patches = positions[:, :prefix], positions[:, prefix:]
    fitted = dict(tensors)
    used = 0
    if config.embedding.class_token:
        used = min(prefix, 1)
        kept = first[:, :1] if prefix else positions.new_zeros(1, 1, positions.shape[2])
    else:
        kept = first[:, :0]
    for name in ("dist_token", "reg_token"):
        if name in fitted and used + fitted[name].shape[1] <= prefix:
            count = fitted[name].shape[1]
            fitted[name] = fitted[name].float() + first[:, used : used + count]
            used += count
    fitted["pos_embed"] = torch.cat(
        [kept, resample(patches, native, config.grid, antialias)], dim=1
    )
    return fitted


def resample(
    patches: Tensor, native: tuple[int, int], grid: tuple[int, int], antialias: bool
) -> Tensor:
    """Resamples float32 `[1, rows * columns, D]` from one grid to another, bicubically.

    Source: section 3.2 of the paper; `torch.nn.functional.interpolate`, as timm (antialiased) and
    transformers (not) call it.
    """
    if native == grid:
        return patches
    image = patches.reshape(1, *native, -1).permute(0, 3, 1, 2)
    image = F.interpolate(image, size=grid, mode="bicubic", antialias=antialias)
    return image.permute(0, 2, 3, 1).reshape(1, grid[0] * grid[1], -1)
